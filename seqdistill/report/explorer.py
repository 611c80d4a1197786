"""All sentences of all systems, packed small enough for a page to hold them.

The page's script draws only the rows in sight, so what counts is how much there is to load. Texts
that systems share are stored once, and uncertainties as the index of the value on a scale: of a
token two characters, 4,095 steps; of a sentence three, or four where values may be below 0.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.quality import SENTENCE_METRICS, sentence_quality
from seqdistill.assessment.word_alignment import AS_WRITTEN, Normalisation
from seqdistill.hypotheses import Hypothesis
from seqdistill.report.examples import shadable, surface
from seqdistill.report.results import SystemResult
from seqdistill.report.tables import symbol_of, unit_of

IN_DOMAIN = "in-domain"
#: Bytes that a page may have; what plots and tables leave of them is for the sentences.
PAGE_BYTES = 14_500_000
_SCALE_BYTES = 200  # what a measure's name and scale take at most
_TEXT_SHARE = 0.7  # of it for all but token values, so that some shades find room

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LETTERS = np.array(list(_ALPHABET))

#: A sentence: its set and its number there.
Sentence = tuple[str, int]


@dataclass(frozen=True)
class Scale:
    """How the page turns characters back into a value, and a token's value into a shade.

    Level k is 0 for k = 0 and exp(start + k·step) above it where ``logarithmic``, else
    start + k·step.

    Attributes:
        logarithmic: whether the levels are spread evenly over logarithms.
        start: see above.
        step: see above.
        pale: the value (nats) without any shade.
        full: the value from which on the shade is full, above ``pale``.
        width: characters a value; there are 64^width levels.
    """

    logarithmic: bool
    start: float
    step: float
    pale: float
    full: float
    width: int = 2

    @classmethod
    def of(cls, values: FloatArray, width: int = 2, width_below_zero: int = 2) -> "Scale":
        """Return a scale that holds all values, shape (n,), at least one.

        ``width_below_zero`` is the width where one of them is negative.

        Uncertainties span many powers of ten, so levels are logarithmic, unless a value is below 0.
        The shade is full at the 98th percentile: one extreme token must not pale all the others.
        """
        top = float(np.quantile(values, 0.98))
        if values.min() < 0.0:
            low, high = float(values.min()), float(values.max())
            step = (high - low) / (64**width_below_zero - 1) or 1.0
            return cls(False, low, step, low, top if top > low else low + 1.0, width_below_zero)
        positive = values[values > 0.0]
        if positive.size == 0:
            return cls(True, 0.0, 1.0, 0.0, 1.0, width)
        low, high = float(np.log(positive.min())), float(np.log(positive.max()))
        step = (high - low) / (64**width - 2) or 1.0
        # Level 1 is the smallest positive value.
        return cls(True, low - step, step, 0.0, top if top > 0.0 else float(positive.max()), width)

    def encode(self, values: Sequence[float]) -> str:
        """Return ``width`` characters a value."""
        column = np.asarray(values, dtype=np.float64)
        if self.logarithmic:
            positive = column > 0.0
            logs = np.log(np.where(positive, column, 1.0))
            level = np.where(positive, np.maximum((logs - self.start) / self.step, 1.0), 0.0)
        else:
            level = (column - self.start) / self.step
        index = np.clip(np.rint(level), 0, 64**self.width - 1).astype(np.int64)
        digits = index[:, None] >> 6 * np.arange(self.width)[::-1] & 63
        return "".join(_LETTERS[digits.ravel()])

    def decode(self, text: str) -> list[float]:
        """Return the values of :meth:`encode`, as the page computes them."""
        levels = []
        for start in range(0, len(text), self.width):
            level = 0
            for letter in text[start : start + self.width]:
                level = 64 * level + _ALPHABET.index(letter)
            levels.append(level)
        if not self.logarithmic:
            return [self.start + k * self.step for k in levels]
        return [float(np.exp(self.start + k * self.step)) if k else 0.0 for k in levels]


def explorer_json(
    results: Sequence[SystemResult],
    metric: str,
    *,
    series: int,
    budget: int = PAGE_BYTES,
    normalisation: Normalisation = AS_WRITTEN,
) -> str | None:
    """Return the sentences of all systems as JSON for the page; None where no system has a measure.

    Where they would take more than ``budget``, token values of the later measures are left out
    first and then sentences, the same of every system. Half of those that stay are those at either
    end of an order by any measure, or by quality, of any system; the others are evenly chosen. The
    page says so.

    Args:
        results: the systems.
        metric: sentence quality shown, of :data:`~seqdistill.assessment.quality.SENTENCE_METRICS`.
        series: number of colours.
        budget: bytes, above 0.
        normalisation: of texts before words are compared.

    Returns:
        JSON without ``<``, so that it may stand in a script element.
    """
    if not any(result.measures for result in results):
        return None
    quality = [_quality(_sets(result), metric, normalisation) for result in results]
    every = _sentences(results)
    kept, payload = set(every), _payload(results, quality, metric, series, set(every))
    room = int(_TEXT_SHARE * budget)
    places: dict[Sentence, int] = {}
    while (size := _size(payload)) > room and len(kept) > 1:
        places = places or _places(results, quality, every)
        count = max(1, min(len(kept) - 1, len(kept) * room // size))
        kept = _chosen(every, places, count)
        payload = _payload(results, quality, metric, series, kept)
    payload["kept"] = [len(kept), len(every)]
    _add_token_values(payload, results, kept, budget - size - _SCALE_BYTES)
    return _dump(payload)


def _payload(
    results: Sequence[SystemResult],
    quality: Sequence[Sequence[float | None]],
    metric: str,
    series: int,
    kept: set[Sentence],
) -> dict[str, Any]:
    pool: dict[str, int] = {}
    sets = list(dict.fromkeys(name for result in results for name in _sets(result)))
    systems = [
        _system(result, column, kept, sets, lambda text: pool.setdefault(text, len(pool)))
        | {"series": index % series}
        for index, (result, column) in enumerate(zip(results, quality, strict=True))
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
    quality: Sequence[float | None],
    kept: set[Sentence],
    sets: list[str],
    store: Callable[[str], int],
) -> dict[str, Any]:
    rows = _rows(result, kept)
    shown = [q for key, q in zip(_keys(result), quality, strict=True) if key in kept]
    return {
        "name": result.name,
        "shown": result.shown_measures[:1],
        "set": [sets.index(name) for name, _ in rows],
        "id": [row.id for _, row in rows],
        "source": [None if row.source is None else store(row.source) for _, row in rows],
        "reference": [None if row.reference is None else store(row.reference) for _, row in rows],
        "pieces": ["\n".join(_one_line(surface(row.pieces))) for _, row in rows],
        "quality": shown,
        "values": {m: _packed([row.uncertainty[m] for _, row in rows]) for m in result.measures},
        "tokens": {},
    }


def _add_token_values(
    payload: dict[str, Any], results: Sequence[SystemResult], kept: set[Sentence], room: int
) -> None:
    """Add token values measure by measure, those shown first, while there is room (bytes)."""
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
        scale = Scale.of(values)
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


def _keys(result: SystemResult) -> list[Sentence]:
    return [(name, row.id) for name, rows in _sets(result).items() for row in rows]


def _rows(result: SystemResult, kept: set[Sentence]) -> list[tuple[str, Hypothesis]]:
    return [(n, row) for n, rows in _sets(result).items() for row in rows if (n, row.id) in kept]


def _sentences(results: Sequence[SystemResult]) -> list[Sentence]:
    """Every sentence, set by set in the order of numbers, whoever translated it."""
    numbers: dict[str, set[int]] = {}
    for result in results:
        for name, rows in _sets(result).items():
            numbers.setdefault(name, set()).update(row.id for row in rows)
    return [(name, number) for name, found in numbers.items() for number in sorted(found)]


def _places(
    results: Sequence[SystemResult],
    quality: Sequence[Sequence[float | None]],
    every: Sequence[Sentence],
) -> dict[Sentence, int]:
    """How far each sentence is at most from an end of an order that the list can be put into."""
    places = dict.fromkeys(every, len(every))
    for result, scores in zip(results, quality, strict=True):
        rows = [row for rows in _sets(result).values() for row in rows]
        keys = _keys(result)
        columns = [[row.uncertainty[measure] for row in rows] for measure in result.measures]
        for column in [*columns, scores]:
            known = [(v, number) for number, v in enumerate(column) if v is not None]
            for place, (_, number) in enumerate(sorted(known)):
                nearer = min(place, len(known) - 1 - place)
                places[keys[number]] = min(places[keys[number]], nearer)
    return places


def _chosen(every: Sequence[Sentence], places: Mapping[Sentence, int], count: int) -> set[Sentence]:
    """``count`` sentences: half of them nearest to an end, the others evenly from the rest."""
    ends = set(sorted(every, key=lambda sentence: places[sentence])[: count // 2])
    rest = [sentence for sentence in every if sentence not in ends]
    even = np.linspace(0, len(rest) - 1, count - len(ends)).round().astype(np.int64)
    return ends | {rest[index] for index in even}


def _quality(
    sets: Mapping[str, Sequence[Hypothesis]], metric: str, normalisation: Normalisation
) -> list[float | None]:
    """Sentence quality, None where a sentence has no reference (or an empty one, save for WER)."""
    nothing = (None,) if metric == "wer" else (None, "")
    column: list[float | None] = []
    for rows in sets.values():
        pairs = [(row.text, row.reference) for row in rows if row.reference not in nothing]
        scores: list[float] = []
        if pairs:
            texts, references = zip(*pairs, strict=True)
            scores = sentence_quality(
                texts, references, metric=metric, normalisation=normalisation
            ).tolist()
        remaining = iter(scores)
        column += [None if row.reference in nothing else round(next(remaining), 1) for row in rows]
    return column


def _one_line(texts: Sequence[str]) -> list[str]:
    return [text.replace("\n", " ") for text in texts]


def _packed(values: Sequence[float]) -> dict[str, Any]:
    """Scale and characters of a column of sentences; empty where there is none."""
    if not values:
        return {"scale": [1, 0.0, 1.0, 3], "code": ""}
    scale = Scale.of(np.array(values, dtype=np.float64), width=3, width_below_zero=4)
    head = [int(scale.logarithmic), scale.start, scale.step, scale.width]
    return {"scale": head, "code": scale.encode(values)}


def _size(payload: Mapping[str, Any]) -> int:
    return len(_dump(payload).encode("utf-8"))


def _dump(payload: Mapping[str, Any]) -> str:
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")  # "</script>" in a sentence must not end the script
