"""Groups of sentences and of words, for what is told apart by group.

A grouping names its groups and puts every word of every sentence into one: by the sentence it
stands in (its length, how rare its words are, its speaker), or by the word itself. Words are
lower-cased and have no punctuation here (:data:`PLAIN_WORDS`).
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqdistill.assessment.bootstrap import IntArray
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.word_alignment import Normalisation
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis
from seqdistill.speech.manifest import read_manifest

PLAIN_WORDS = Normalisation(lowercase=True, remove_punctuation=True)

#: Kind of grouping → how tables call it.
GROUPINGS = {
    "length": "words of the sentence",
    "rarest-word": "occurrences of the sentence's rarest word in training",
    "mean-word": "mean occurrences of the sentence's words in training",
    "word": "occurrences of the word in training",
    "file": "given groups",
}
_OF_FREQUENCY = ("rarest-word", "mean-word", "word")


@dataclass(frozen=True)
class Grouping:
    """Which group a word of a sentence belongs to.

    Attributes:
        name: kind of the grouping, one of :data:`GROUPINGS`.
        labels: of the G groups.
        of_sentence: group of each sentence, shape (n,), None where words have groups of their own.
        edges: first value of every group but the first, ascending; empty for given groups.
        occurrences: of words in the training text, where words have groups of their own.
    """

    name: str
    labels: tuple[str, ...]
    of_sentence: IntArray | None
    edges: tuple[float, ...] = ()
    occurrences: Mapping[str, int] | None = None

    def group(self, sentence: int, word: str) -> int:
        """Return the group of a word in a sentence (from 0)."""
        if self.of_sentence is not None:
            return int(self.of_sentence[sentence])
        count = (self.occurrences or {}).get(word, 0)
        return int(np.searchsorted(self.edges, count, side="right"))


@dataclass(frozen=True)
class GroupOptions:
    """How sentences are grouped.

    Attributes:
        by: one of :data:`GROUPINGS`.
        bins: groups of about equal size, where there are no edges.
        edges: first value of every group but the first, ascending.
        training_text: what words are counted in, one sentence a line; or their counts.
        groups: a file of groups, for ``file``; see :func:`read_groups`.
        side: the text that is looked at, ``reference`` or ``source``.
    """

    by: str = "length"
    bins: int = 5
    edges: tuple[float, ...] | None = None
    training_text: str | Path | Mapping[str, int] | None = None
    groups: str | Path | None = None
    side: str = "reference"


def make_grouping(hypotheses: Sequence[Hypothesis], options: GroupOptions) -> Grouping:
    """Group the sentences of a set, or their words.

    Args:
        hypotheses: one a sentence; they say what the references and sources are.
        options: how.

    Raises:
        InputError: something that the grouping needs is missing, or the options are impossible.
    """
    if options.by not in GROUPINGS:
        raise InputError(f"expected groups by {', '.join(GROUPINGS)}, got {options.by!r}")
    if options.by == "file":
        if options.groups is None:
            raise InputError("groups by file need a file of groups; give one with --groups")
        found = read_groups(options.groups, hypotheses)
        labels = tuple(sorted(set(found), key=_natural))
        return Grouping("file", labels, np.array([labels.index(label) for label in found]))
    texts = [_words(text_of(hypothesis, options.side)) for hypothesis in hypotheses]
    if options.by == "length":
        return _by_value("length", np.array([len(words) for words in texts], float), options)
    if options.training_text is None:
        raise InputError(
            f"groups by {options.by} count words in the training text; give it with "
            "--training-text, one sentence a line"
        )
    text = options.training_text
    counts = text if isinstance(text, Mapping) else count_words(text)
    if options.by == "word":
        values = np.array([counts.get(word, 0) for words in texts for word in words], float)
        edges = _edges(values, options)
        return Grouping("word", _labels(edges, values), None, edges, counts)
    summarise = _rarest if options.by == "rarest-word" else _mean
    return _by_value(options.by, np.array([summarise(words, counts) for words in texts]), options)


def text_of(hypothesis: Hypothesis, side: str) -> str:
    """Return the reference or the source of a sentence; a scored text is its own reference.

    Raises:
        InputError: it has none.
    """
    if side not in ("reference", "source"):
        raise InputError(f"expected the side reference or source, got {side!r}")
    text = hypothesis.source if side == "source" else hypothesis.reference
    if text is None and side == "reference" and hypothesis.forced:
        text = hypothesis.text
    if text is None:
        raise InputError(f"sentence {hypothesis.id} has no {side}, which groups are made from")
    return text


def count_words(path: str | Path) -> Counter[str]:
    """Count the words of a text; what does not occur counts 0.

    Raises:
        InputError: the file is missing, empty or not UTF-8.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected the training text, a sentence a line")
    found: Counter[str] = Counter()
    try:
        with open(path, encoding="utf-8") as handle:
            for line in handle:
                found.update(_words(line))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason})") from error
    if not found:
        raise InputError(f"{path}: there are no words in it; expected the training text")
    return found


def read_groups(path: str | Path, hypotheses: Sequence[Hypothesis]) -> list[str]:
    """Read the group of every sentence.

    Args:
        path: lines ``KEY<tab>GROUP``, the key being a sentence's number or its source (of speech
            the utterance's id); or a manifest of ``prepare-speech``, whose speakers are the groups.
        hypotheses: one a sentence.

    Raises:
        InputError: a line is malformed, a key stands twice, or a sentence has no group.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"{path}: no such file; expected lines KEY<tab>GROUP, or a manifest")
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason})") from error
    if lines and {"id", "audio", "n_frames"} <= set(lines[0].split("\t")):
        groups = _speakers(path)
    else:
        groups = _table(path, lines)
    found = []
    for hypothesis in hypotheses:
        keys = [str(hypothesis.id), *([] if hypothesis.source is None else [hypothesis.source])]
        known = [groups[key] for key in keys if key in groups]
        if not known:
            raise InputError(
                f"{path}: sentence {hypothesis.id} ({hypothesis.source}) is in no group; expected "
                "a line for every sentence, by its number or its source"
            )
        found.append(known[0])
    return found


def _speakers(path: str | Path) -> dict[str, str]:
    utterances = read_manifest(path)
    unknown = [one.id for one in utterances if one.speaker is None]
    if unknown:
        raise InputError(f"{path}: utterance {unknown[0]} has no speaker, so groups are unknown")
    return {one.id: str(one.speaker) for one in utterances}


def _table(path: str | Path, lines: Sequence[str]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        key, tab, group = line.partition("\t")
        if not (key and tab and group.strip()):
            raise InputError(f"{path}:{number}: expected KEY<tab>GROUP, got {line!r}")
        if key in groups:
            raise InputError(f"{path}:{number}: {key} has a group already")
        groups[key] = group.strip()
    return groups


def _words(text: str) -> list[str]:
    return PLAIN_WORDS(text).split()


def _rarest(words: Sequence[str], counts: Mapping[str, int]) -> float:
    return float(min((counts.get(word, 0) for word in words), default=0))


def _mean(words: Sequence[str], counts: Mapping[str, int]) -> float:
    """Geometric mean of 1 + occurrences, less the 1: a rare word is felt, an unseen one counts."""
    logs = [math.log1p(counts.get(word, 0)) for word in words]
    return math.expm1(sum(logs) / len(logs)) if logs else 0.0


def _by_value(name: str, values: FloatArray, options: GroupOptions) -> Grouping:
    edges = _edges(values, options)
    index = np.searchsorted(np.array(edges), values, side="right").astype(np.int64)
    return Grouping(name, _labels(edges, values), index, edges)


def _edges(values: FloatArray, options: GroupOptions) -> tuple[float, ...]:
    """First value of every group but the first."""
    if options.edges is not None:
        edges = options.edges
        ascending = all(low < high for low, high in itertools.pairwise(edges))
        if not edges or not ascending or not all(math.isfinite(edge) for edge in edges):
            raise InputError(f"edges of groups must be ascending numbers, got {edges}")
        return edges
    if options.bins < 1:
        raise InputError(f"expected at least 1 group, got {options.bins}")
    if values.size == 0:
        raise InputError("there are no words to make groups of")
    shares = np.arange(1, options.bins) / options.bins
    # Values that occur, so that no group is empty; ties stay together, so there may be fewer.
    found = np.unique(np.quantile(values, shares, method="inverted_cdf"))
    return tuple(float(edge) for edge in found if edge > values.min())


def _labels(edges: Sequence[float], values: FloatArray) -> tuple[str, ...]:
    """``up to 4``, ``5–9``, ``10 or more``; where values are not whole, ``below 3.5``."""
    if not edges:
        return ("all",)
    pairs = list(itertools.pairwise(edges))
    if not (all(edge % 1 == 0 for edge in edges) and bool(np.all(values % 1 == 0))):
        inner = [f"{low:.4g} to {high:.4g}" for low, high in pairs]
        return (f"below {edges[0]:.4g}", *inner, f"{edges[-1]:.4g} or more")
    spans = [(int(low), int(high) - 1) for low, high in pairs]
    inner = [f"{low}" if low == high else f"{low}–{high}" for low, high in spans]
    is_none = edges[0] == 1 and values.size > 0 and values.min() == 0
    first = "0" if is_none else f"up to {edges[0] - 1:g}"
    return (first, *inner, f"{int(edges[-1])} or more")


def _natural(label: str) -> tuple[int, float, str]:
    """Order numbers as numbers, before names."""
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)
