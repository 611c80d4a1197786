"""All sentences of all systems, packed small enough for a page to hold them.

The page's script draws only the rows in sight, so what counts is how much there is to load. Texts
that systems share are stored once, sequence values with four digits, and the uncertainty of a token
as two characters: the index of its value on a scale of 4,095 steps.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.quality import SENTENCE_METRICS, sentence_quality
from seqdistill.hypotheses import Hypothesis
from seqdistill.report.examples import shadable, surface
from seqdistill.report.results import SystemResult
from seqdistill.report.tables import symbol_of, unit_of

IN_DOMAIN = "in-domain"
#: Bytes that all sentences may take; with the plots a page then stays below 15 MB.
BUDGET = 11_000_000
_SCALE_BYTES = 200  # what a measure's name and scale take at most
_TEXT_SHARE = 0.7  # of it for all but token values, so that some shades find room

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LEVELS = len(_ALPHABET) ** 2
_DIGITS = np.array([a + b for a in _ALPHABET for b in _ALPHABET])  # of every level, in order


@dataclass(frozen=True)
class TokenScale:
    """How the page turns two characters back into a value, and a value into a shade.

    Level k is 0 for k = 0 and exp(start + k·step) above it where ``logarithmic``, else
    start + k·step.

    Attributes:
        logarithmic: whether the levels are spread evenly over logarithms.
        start: see above.
        step: see above.
        pale: the value (nats) without any shade.
        full: the value from which on the shade is full, above ``pale``.
    """

    logarithmic: bool
    start: float
    step: float
    pale: float
    full: float

    @classmethod
    def of(cls, values: FloatArray) -> "TokenScale":
        """Return a scale that holds all values, shape (n,), at least one.

        Uncertainties span many powers of ten, so levels are logarithmic, unless a value is below 0.
        The shade is full at the 98th percentile: one extreme token must not pale all the others.
        """
        top = float(np.quantile(values, 0.98))
        if values.min() < 0.0:
            low, high = float(values.min()), float(values.max())
            step = (high - low) / (_LEVELS - 1) or 1.0
            return cls(False, low, step, low, top if top > low else low + 1.0)
        positive = values[values > 0.0]
        if positive.size == 0:
            return cls(True, 0.0, 1.0, 0.0, 1.0)
        low, high = float(np.log(positive.min())), float(np.log(positive.max()))
        step = (high - low) / (_LEVELS - 2) or 1.0
        # Level 1 is the smallest positive value.
        return cls(True, low - step, step, 0.0, top if top > 0.0 else float(positive.max()))

    def encode(self, values: Sequence[float]) -> str:
        """Return two characters a value."""
        column = np.asarray(values, dtype=np.float64)
        if self.logarithmic:
            positive = column > 0.0
            logs = np.log(np.where(positive, column, 1.0))
            level = np.where(positive, np.maximum((logs - self.start) / self.step, 1.0), 0.0)
        else:
            level = (column - self.start) / self.step
        index = np.clip(np.rint(level), 0, _LEVELS - 1).astype(np.int64)
        return "".join(_DIGITS[index])

    def decode(self, text: str) -> list[float]:
        """Return the values of :meth:`encode`, as the page computes them."""
        pairs = zip(text[::2], text[1::2], strict=True)
        levels = [64 * _ALPHABET.index(a) + _ALPHABET.index(b) for a, b in pairs]
        if not self.logarithmic:
            return [self.start + k * self.step for k in levels]
        return [float(np.exp(self.start + k * self.step)) if k else 0.0 for k in levels]


def explorer_json(
    results: Sequence[SystemResult],
    metric: str,
    *,
    series: int,
    budget: int = BUDGET,
) -> str | None:
    """Return the sentences of all systems as JSON for the page; None where no system has a measure.

    Where they would take more than ``budget``, token values of the later measures are left out
    first and then sentences, evenly and the same of every system; the page says so.

    Args:
        results: the systems.
        metric: sentence quality shown, of :data:`~seqdistill.assessment.quality.SENTENCE_METRICS`.
        series: number of colours.
        budget: bytes, above 0.

    Returns:
        JSON without ``<``, so that it may stand in a script element.
    """
    if not any(result.measures for result in results):
        return None
    total = len(_sentences(results, 1))
    stride = 1
    payload = _payload(results, metric, series, stride)
    room = int(_TEXT_SHARE * budget)
    while (size := _size(payload)) > room and len(_sentences(results, stride)) > 1:
        stride = max(stride + 1, round(stride * size / room))
        payload = _payload(results, metric, series, stride)
    payload["kept"] = [len(_sentences(results, stride)), total]
    _add_token_values(payload, results, stride, budget - size - _SCALE_BYTES)
    return _dump(payload)


def _payload(
    results: Sequence[SystemResult], metric: str, series: int, stride: int
) -> dict[str, Any]:
    pool: dict[str, int] = {}
    sets = list(dict.fromkeys(name for result in results for name in _sets(result)))
    kept = _sentences(results, stride)
    systems = [
        _system(result, metric, kept, sets, lambda text: pool.setdefault(text, len(pool)))
        | {"series": index % series}
        for index, result in enumerate(results)
    ]
    measures = dict.fromkeys(measure for result in results for measure in result.measures)
    return {
        "alphabet": _ALPHABET,
        "quality": SENTENCE_METRICS[metric],
        "sets": sets,
        "measures": {name: [symbol_of(name), unit_of(name)] for name in measures},
        "systems": systems,
        "texts": list(pool),
    }


def _system(
    result: SystemResult,
    metric: str,
    kept: set[tuple[str, int]],
    sets: list[str],
    store: Callable[[str], int],
) -> dict[str, Any]:
    rows = _rows(result, kept)
    quality = _quality(_sets(result), kept, metric)
    return {
        "name": result.name,
        "shown": result.shown_measures[:1],
        "set": [sets.index(name) for name, _ in rows],
        "id": [row.id for _, row in rows],
        "source": [None if row.source is None else store(row.source) for _, row in rows],
        "reference": [None if row.reference is None else store(row.reference) for _, row in rows],
        "pieces": ["\n".join(_one_line(surface(row.pieces))) for _, row in rows],
        "quality": quality,
        "values": {m: [_short(row.uncertainty[m]) for _, row in rows] for m in result.measures},
        "tokens": {},
    }


def _add_token_values(
    payload: dict[str, Any], results: Sequence[SystemResult], stride: int, room: int
) -> None:
    """Add token values measure by measure, those shown first, while there is room (bytes)."""
    kept = _sentences(results, stride)
    wanted = []
    for index, result in enumerate(results):
        first = [m for m in result.shown_measures if shadable(m)]
        order = list(dict.fromkeys([*first, *(m for m in result.measures if shadable(m))]))
        wanted += [(place, index, measure) for place, measure in enumerate(order)]
    for _, index, measure in sorted(wanted):
        rows = [row for _, row in _rows(results[index], kept)]
        columns = [row.token_uncertainty.get(measure, []) for row in rows]
        values = np.array([value for column in columns for value in column], dtype=np.float64)
        need = 2 * len(values) + 3 * len(rows) + _SCALE_BYTES
        if values.size == 0 or need > room:
            continue
        room -= need
        scale = TokenScale.of(values)
        payload["systems"][index]["tokens"][measure] = {
            "scale": [
                int(scale.logarithmic), scale.start, scale.step, scale.pale, scale.full
            ],
            "rows": [
                scale.encode(column) if len(column) == len(row.pieces) else ""
                for row, column in zip(rows, columns, strict=True)
            ],
        }  # fmt: skip


def _sets(result: SystemResult) -> Mapping[str, Sequence[Hypothesis]]:
    return {IN_DOMAIN: result.system.in_domain, **result.system.out_of_domain}


def _rows(result: SystemResult, kept: set[tuple[str, int]]) -> list[tuple[str, Hypothesis]]:
    return [(n, row) for n, rows in _sets(result).items() for row in rows if (n, row.id) in kept]


def _sentences(results: Sequence[SystemResult], stride: int) -> set[tuple[str, int]]:
    """Every ``stride``-th sentence of each set, by set and number, whoever translated it."""
    numbers: dict[str, set[int]] = {}
    for result in results:
        for name, rows in _sets(result).items():
            numbers.setdefault(name, set()).update(row.id for row in rows)
    return {(name, i) for name, found in numbers.items() for i in sorted(found)[::stride]}


def _quality(
    sets: Mapping[str, Sequence[Hypothesis]], kept: set[tuple[str, int]], metric: str
) -> list[float | None]:
    """Sentence quality, None where a sentence has no reference (or an empty one)."""
    column: list[float | None] = []
    for name, all_rows in sets.items():
        rows = [row for row in all_rows if (name, row.id) in kept]
        pairs = [(row.text, row.reference) for row in rows if row.reference]
        scores: list[float] = []
        if pairs:
            texts, references = zip(*pairs, strict=True)
            scores = sentence_quality(texts, references, metric=metric).tolist()
        remaining = iter(scores)
        column += [round(next(remaining), 1) if row.reference else None for row in rows]
    return column


def _one_line(texts: Sequence[str]) -> list[str]:
    return [text.replace("\n", " ") for text in texts]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _size(payload: Mapping[str, Any]) -> int:
    return len(_dump(payload).encode("utf-8"))


def _dump(payload: Mapping[str, Any]) -> str:
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")  # "</script>" in a sentence must not end the script
