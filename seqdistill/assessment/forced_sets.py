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
    """

    source: HypothesisSet
    sentence: IntArray
    log_probs: FloatArray
    confidence: FloatArray | None
    correct: FloatArray | None
    uncertainty: dict[str, FloatArray]

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
    source = read_set(path)
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
    joined = {name: np.concatenate(rows) for name, rows in columns.items() if rows}
    return ForcedSet(
        source=source,
        sentence=np.repeat(np.arange(len(lengths)), lengths),
        log_probs=joined["log_probs"],
        confidence=np.minimum(joined["confidence"], 1.0) if has_confidence else None,
        correct=joined.get("correct"),
        uncertainty={name: np.concatenate(rows) for name, rows in uncertainty.items()},
    )


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
