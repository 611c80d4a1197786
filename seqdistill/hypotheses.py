"""Hypotheses with their uncertainty, as JSONL: the one format that stages exchange.

One JSON object a line, ``"schema": "seqdistill.hypothesis/1"``. ``docs/jsonl.md`` has every field.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError
from seqdistill.files import atomic_write

SCHEMA = "seqdistill.hypothesis/1"


@dataclass(frozen=True)
class ModelInfo:
    """What produced a hypothesis.

    Attributes:
        kind: ``ensemble`` (several ordinary models), ``dirichlet`` (one Dirichlet student, or
            several as a mixture), ``softmax`` (one ordinary model), ``hydra`` (a student with a
            head for each member), ``laplace``, ``gaussian`` or ``concrete`` (a student with that
            distribution over logits), ``expectations`` (one that predicts measures) or
            ``calibrated`` (one model, decoded as it is, whose probabilities a calibrator gave).
        members: number of models (or heads), at least 1.
        predictive: the distribution that was decoded: ``pe`` (product of expectations), ``ep``
            (expectation of products), ``base`` (softmax of a student's logits), ``mean`` (a
            Dirichlet's α/α₀, or the mean of the members drawn from a distribution over logits),
            ``softmax`` or ``calibrated``.
        offset: the Dirichlet's offset, None for ordinary models.
        samples: members drawn from a distribution over logits, None for other kinds.
        seed: of those draws.
    """

    kind: str
    members: int
    predictive: str
    offset: float | None = None
    samples: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Against:
    """How a forced text's predictions relate to those of a second system at the same prefixes.

    Attributes:
        model: what the second system is.
        token_kl_divergence: KL(p_second‖p) at each position, over the whole vocabulary (nats).
        token_top1_agreement: whether both find the same piece the most probable.
    """

    model: ModelInfo
    token_kl_divergence: list[float]
    token_top1_agreement: list[bool]


@dataclass(frozen=True)
class Tempered:
    """What temperatures would make of the predictions along a forced text, ln Σ_v p(v)^(1/T).

    With it ln p_T(y) = ln p(y)/T − ln Σ_v p(v)^(1/T), of the reference token and of the most
    probable one alike.

    Attributes:
        temperatures: K of them, ascending.
        token_log_partitions: K lists of one number a position (nats).
    """

    temperatures: list[float]
    token_log_partitions: list[list[float]]


@dataclass(frozen=True)
class Hypothesis:
    """One hypothesis (or one force-decoded text) with its uncertainty; logs are natural.

    Attributes:
        id: the sentence's number in its data set.
        rank: 0 for the best of the n-best list.
        text: detokenised text; ``source`` and ``reference`` likewise, None when unknown.
        tokens: dictionary indices, end-of-sentence included; ``pieces`` are their strings.
        log_prob: sum of ``token_log_probs`` (nats).
        score: what the search ranked by (length-normalised as the search does), None if forced.
        token_uncertainty: per measure one number a token (nats; higher = more uncertain).
        uncertainty: per measure one number for the sequence (nats; higher = more uncertain).
        forced: True when a given text was scored instead of searched for.
        token_confidence: largest probability at each position, when it was asked for.
        token_correct: whether the most probable piece is the forced one, when forced.
        against: how the predictions relate to a second system's, when it was asked for.
        tempered: what temperatures would make of the predictions, when it was asked for.
    """

    id: int
    rank: int
    text: str
    tokens: list[int]
    pieces: list[str]
    log_prob: float
    token_log_probs: list[float]
    token_uncertainty: dict[str, list[float]]
    uncertainty: dict[str, float]
    model: ModelInfo
    source: str | None = None
    reference: str | None = None
    score: float | None = None
    forced: bool = False
    token_confidence: list[float] | None = None
    token_correct: list[bool] | None = None
    against: Against | None = None
    tempered: Tempered | None = None
    schema: str = field(default=SCHEMA)

    def to_json(self) -> str:
        """Return one line of JSON, without a newline."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Hypothesis":
        """Build a hypothesis from a decoded JSON object.

        Raises:
            InputError: a field is missing or of the wrong kind, or the schema is another one.
        """
        if not isinstance(record, dict):
            raise InputError(f"expected a JSON object, got {type(record).__name__}")
        if record.get("schema") != SCHEMA:
            raise InputError(f"expected schema {SCHEMA!r}, got {record.get('schema')!r}")
        missing = sorted(_REQUIRED - record.keys())
        if missing:
            raise InputError(f"the fields {', '.join(missing)} are missing")
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in record.items() if name in known}
        for name, (kind, called) in _KINDS.items():
            if isinstance(values[name], bool) or not isinstance(values[name], kind):
                raise InputError(f"the field {name} must be {called}, got {values[name]!r}")
        _check_number("log_prob", values["log_prob"])
        for name, value in values["uncertainty"].items():
            _check_number(f"uncertainty.{name}", value)
        values["model"] = _build(ModelInfo, "model", values["model"])
        for name, kind in (("against", Against), ("tempered", Tempered)):
            if values.get(name) is not None:
                values[name] = _build(kind, name, values[name])
        if values.get("against") is not None:
            model = _build(ModelInfo, "against.model", values["against"].model)
            values["against"] = replace(values["against"], model=model)
        return cls(**values)


def _build(kind: type[Any], name: str, value: object) -> Any:
    """Make a dataclass of a field that holds an object."""
    if not isinstance(value, dict):
        raise InputError(f"the field {name} is malformed: expected an object, got {value!r}")
    try:
        return kind(**value)
    except TypeError as error:
        raise InputError(f"the field {name} is malformed: {error}") from error


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise InputError(f"{name} must be finite, got {value!r}")


_KINDS = {
    "id": (int, "an integer"),
    "rank": (int, "an integer"),
    "text": (str, "a string"),
    "tokens": (list, "a list"),
    "pieces": (list, "a list"),
    "token_log_probs": (list, "a list"),
    "token_uncertainty": (dict, "an object of measure: list"),
    "uncertainty": (dict, "an object of measure: number"),
}
_REQUIRED = {*_KINDS, "log_prob", "model"}


def read_hypotheses(path: str | Path) -> Iterator[Hypothesis]:
    """Read hypotheses from a JSONL file, one at a time.

    Raises:
        InputError: the file is missing or empty, or a line is malformed (file and line are named).
    """
    return (hypothesis for hypothesis, _ in read_records(path))


def read_records(path: str | Path) -> Iterator[tuple[Hypothesis, dict[str, Any]]]:
    """Read hypotheses and the objects that they stand in, which may hold more fields.

    Raises:
        InputError: as :func:`read_hypotheses`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected JSONL from --uncertainty-output")
    count = 0
    with open(path, encoding="utf-8") as handle:
        try:
            for number, line in enumerate(handle, start=1):
                yield _read_line(line, f"{path}:{number}")
                count += 1
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error.reason})") from error
    if count == 0:
        raise InputError(f"{path}: the file is empty; expected at least one hypothesis")


def _read_line(line: str, where: str) -> tuple[Hypothesis, dict[str, Any]]:
    if not line.strip():
        raise InputError(f"{where}: empty line; every line holds one JSON object")
    try:
        record = json.loads(line)
        return Hypothesis.from_dict(record), record
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg})") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def write_hypotheses(
    path: str | Path, hypotheses: Iterable[Hypothesis], *, overwrite: bool = True
) -> int:
    """Write hypotheses to a JSONL file, whole or not at all; returns how many."""
    count = 0
    with atomic_write(path, overwrite=overwrite) as handle:
        for hypothesis in hypotheses:
            handle.write(hypothesis.to_json() + "\n")
            count += 1
    return count
