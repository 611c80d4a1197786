"""Scored references as arrays of tokens, each number looked at once and named by its line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import IntArray
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.hypothesis_files import HypothesisSet, read_set
from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.uncertainty.second_reading import check_temperatures

# A float32 softmax rounds certainty to a log-probability just above 0.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class ForcedSet:
    """Force-decoded references of one system; T tokens in n sentences, in order of sentences.

    Attributes:
        source: the file.
        sentence: sentence of each token, from 0, shape (T,), ascending.
        log_probs: ln p of each reference token (nats), shape (T,).
        confidence: largest probability at each position, shape (T,), None where not recorded.
        correct: 1 where the most probable piece is the reference's, else 0, shape (T,), None where
            not recorded.
        uncertainty: token measure → shape (T,), nats.
        against: the second system that the exact comparisons are with, None without.
        divergence: KL(p_second‖p) at each position (nats), shape (T,), None without.
        agreement: 1 where both find the same piece the most probable, shape (T,), None without.
        temperatures: ascending, shape (K,), None where none were recorded.
        log_partitions: ln Σ p^(1/T) of each, shape (K, T), None likewise.
    """

    source: HypothesisSet
    sentence: IntArray
    log_probs: FloatArray
    confidence: FloatArray | None
    correct: FloatArray | None
    uncertainty: dict[str, FloatArray]
    against: ModelInfo | None = None
    divergence: FloatArray | None = None
    agreement: FloatArray | None = None
    temperatures: FloatArray | None = None
    log_partitions: FloatArray | None = None

    @property
    def n(self) -> int:
        """Sentences."""
        return len(self.source.hypotheses)

    @property
    def lengths(self) -> FloatArray:
        """Tokens of each sentence, shape (n,)."""
        return np.bincount(self.sentence, minlength=self.n).astype(np.float64)

    def sums(self, values: FloatArray) -> FloatArray:
        """Sum a number a token over each sentence, (T,) → (n,)."""
        summed = np.bincount(self.sentence, weights=values, minlength=self.n)
        return np.asarray(summed, dtype=np.float64)


def read_forced(path: str | Path) -> ForcedSet:
    """Read scored references.

    Raises:
        InputError: as :func:`seqdistill.assessment.hypothesis_files.read_set`; or a hypothesis was
            searched for, has no tokens, has lists of another length than its tokens, holds NaN,
            infinity or an impossible probability, or lacks what the others have (file and line are
            named).
    """
    return forced_set(read_set(path))


def forced_set(source: HypothesisSet) -> ForcedSet:
    """Make arrays of scored references.

    Raises:
        InputError: as :func:`read_forced`.
    """
    first = source.hypotheses[0]
    names = list(first.token_uncertainty)
    has_confidence = first.token_confidence is not None and first.token_correct is not None
    columns: dict[str, list[FloatArray]] = {"log_probs": [], "confidence": [], "correct": []}
    uncertainty: dict[str, list[FloatArray]] = {name: [] for name in names}
    lengths = []
    for index, hypothesis in enumerate(source.hypotheses):
        where, length = source.where(index), len(hypothesis.tokens)
        if not hypothesis.forced:
            raise InputError(
                f"{where}: sentence {hypothesis.id} was searched for, not forced; expected scored "
                "references (seqdistill-fairseq-generate --score-reference)"
            )
        if length == 0:
            raise InputError(f"{where}: no tokens; end-of-sentence counts as one")
        lengths.append(length)
        columns["log_probs"].append(
            _tokens(where, "token_log_probs", hypothesis.token_log_probs, length, high=_ROUNDING)
        )
        given = (hypothesis.token_confidence, hypothesis.token_correct)
        if (None not in given) != has_confidence:
            raise InputError(
                f"{where}: only some sentences have token_confidence and token_correct; "
                "write the file in one run"
            )
        if has_confidence:
            for name, values in zip(("confidence", "correct"), given, strict=True):
                columns[name].append(
                    _tokens(where, f"token_{name}", values, length, low=0.0, high=1.0 + _ROUNDING)
                )
        if list(hypothesis.token_uncertainty) != names:
            raise InputError(
                f"{where}: token_uncertainty has {', '.join(hypothesis.token_uncertainty)}; "
                f"other lines have {', '.join(names)}; write the file in one run"
            )
        for name, values in hypothesis.token_uncertainty.items():
            uncertainty[name].append(_tokens(where, f"token_uncertainty.{name}", values, length))
    against, exact = _exact(source)
    temperatures, log_partitions = _tempered(source)
    joined = {name: np.concatenate(rows) for name, rows in columns.items() if rows}
    return ForcedSet(
        source=source,
        sentence=np.repeat(np.arange(len(lengths)), lengths),
        log_probs=joined["log_probs"],
        confidence=np.minimum(joined["confidence"], 1.0) if has_confidence else None,
        correct=joined.get("correct"),
        uncertainty={name: np.concatenate(rows) for name, rows in uncertainty.items()},
        against=against,
        divergence=exact.get("token_kl_divergence"),
        agreement=exact.get("token_top1_agreement"),
        temperatures=temperatures,
        log_partitions=log_partitions,
    )


def _exact(source: HypothesisSet) -> tuple[ModelInfo | None, dict[str, FloatArray]]:
    """The second system, and what was compared with it by name, each (T,); none without."""
    rows = [hypothesis.against for hypothesis in source.hypotheses]
    first = rows[0]
    highest = {"token_kl_divergence": np.inf, "token_top1_agreement": 1.0}
    columns: dict[str, list[FloatArray]] = {name: [] for name in highest}
    for index, row in enumerate(rows):
        where, length = source.where(index), len(source.hypotheses[index].tokens)
        if (row and row.model) != (first and first.model):
            raise InputError(
                f"{where}: scored against another system than {source.where(0)}, or only one of "
                "them against any; write the file in one run"
            )
        for name, high in highest.items() if row else ():
            given = getattr(row, name)
            columns[name].append(
                _tokens(where, f"against.{name}", given, length, low=0.0, high=high)
            )
    if first is None:
        return None, {}
    return first.model, {name: np.concatenate(parts) for name, parts in columns.items()}


def _tempered(source: HypothesisSet) -> tuple[FloatArray | None, FloatArray | None]:
    """Temperatures (K,), and ln Σ p^(1/T) of each (K, T); None without."""
    rows = [hypothesis.tempered for hypothesis in source.hypotheses]
    first = rows[0]
    parts: list[FloatArray] = []
    for index, row in enumerate(rows):
        where, length = source.where(index), len(source.hypotheses[index].tokens)
        if (row and row.temperatures) != (first and first.temperatures):
            raise InputError(
                f"{where}: other tempered.temperatures than {source.where(0)}; write the file in "
                "one run"
            )
        if row is None:
            continue
        name = "tempered.token_log_partitions"
        lists = (row.temperatures, row.token_log_partitions)
        if not all(isinstance(values, list) and values for values in lists) or len(lists[0]) != len(
            lists[1]
        ):
            raise InputError(f"{where}: {name} must be lists of numbers, one for each temperature")
        parts.append(
            np.stack([_tokens(where, name, values, length) for values in row.token_log_partitions])
        )
    if first is None:
        return None, None
    where = f"{source.where(0)}: tempered.temperatures"
    try:
        temperatures = check_temperatures(first.temperatures)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    if list(temperatures) != first.temperatures:
        raise InputError(f"{where}: expected them in ascending order, got {first.temperatures}")
    return np.array(temperatures), np.concatenate(parts, axis=1)


def require_same_tokens(one: ForcedSet, other: ForcedSet) -> None:
    """Refuse two scorings that are not of the same tokens.

    Raises:
        InputError: a sentence is missing on one side or has other tokens (its lines are named).
    """
    one.source.require_same_sentences(other.source)
    pairs = zip(one.source.hypotheses, other.source.hypotheses, strict=True)
    for index, (mine, theirs) in enumerate(pairs):
        if mine.tokens != theirs.tokens:
            raise InputError(
                f"{one.source.where(index)}: sentence {mine.id} has other tokens than on "
                f"{other.source.where(index)} ({len(mine.tokens)} and {len(theirs.tokens)} of "
                "them); both must score one set, with one dictionary"
            )


def _tokens(
    where: str, name: str, values: Sequence[Any] | None, length: int, *,
    low: float = -np.inf, high: float = np.inf,
) -> FloatArray:  # fmt: skip
    """Return one list of a hypothesis, having looked at its length and its numbers."""
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {name} must be a list of numbers ({error})") from error
    if vector.shape != (length,):
        raise InputError(f"{where}: {name} has {vector.size} numbers for {length} tokens")
    # Infinity is finite nowhere here; comparisons with NaN are false.
    wrong = ~(np.isfinite(vector) & (vector >= low) & (vector <= high))
    if wrong.any():
        position = int(np.argmax(wrong))
        limits = "" if low == -np.inf and high == np.inf else f" in [{low:g}, {high:.3g}]"
        raise InputError(
            f"{where}: {name} must hold finite numbers{limits}, got {vector[position]} at token "
            f"{position} (from 0)"
        )
    return vector
