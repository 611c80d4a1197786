"""Which drawn sentences are kept: new ones, whole ones."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from fairseq.data import Dictionary, data_utils

from fairseq_plugins.target_cache.corpus import CorpusPlace
from fairseq_plugins.target_cache.folders import binarised_files
from seqdistill.targets.store.files import Array
from seqdistill.targets.store.fingerprint import SideHasher, SidePrint

#: Reasons for which a draw is left out, in the order in which they are looked at.
CUT, NO_TEXT, REPEATED = "cut at the longest", "without text", "drawn before"


class Segmenter(Protocol):
    """A sentencepiece model."""

    def decode(self, pieces: list[str]) -> str:
        """Return the text of pieces."""
        ...

    def encode(self, text: str, out_type: type[str]) -> list[str]:
        """Return the pieces of a text."""
        ...


class Known:
    """The sources of a data folder, all subsets: no draw that is one of them is kept.

    Args:
        corpus: names the folder and the languages.
        dictionary: of the sources.

    Attributes:
        prints: of each subset's source side, by its name.
    """

    def __init__(self, corpus: CorpusPlace, dictionary: Dictionary) -> None:
        self.prints: dict[str, SidePrint] = {}
        self._subsets: dict[bytes, str] = {}
        files = list(binarised_files(corpus))
        # A sentence that several subsets have counts for the first: the training set, if it is one.
        order = sorted({subset for subset, _, _ in files}, key=lambda name: (name != "train", name))
        for subset in order:
            paths = [p for s, language, p in files if (s, language) == (subset, corpus.source)]
            if not any(path.suffix == ".bin" and path.stat().st_size for path in paths):
                continue
            hasher = SideHasher()
            sentences: Any = data_utils.load_indexed_dataset(
                str(paths[0].with_suffix("")), dictionary
            )
            for index in range(len(sentences)):
                ids = sentences[index].numpy()
                hasher.add(ids, [len(ids)])
                self._subsets.setdefault(digest(ids), subset)
            self.prints[subset] = hasher.result()

    def subset_of(self, key: bytes) -> str | None:
        """Return the subset that has a sentence, by its digest; None if none has it."""
        return self._subsets.get(key)


class Sieve:
    """Takes draws in their order and keeps those that are of use.

    Args:
        known: the sentences of the data.
        dictionary: of the sources.
        longest: pieces of a sentence; one that has more was cut.
        segmenter: cuts the text of every draw as that of the data was cut; None: draws stay as they
            are.

    Attributes:
        kept: sentences, each with its end.
        left_out: why → how many.
        recut: how many of those that are kept were drawn in other pieces.
    """

    def __init__(
        self, known: Known, dictionary: Dictionary, longest: int, segmenter: Segmenter | None
    ) -> None:
        self.kept: list[Array] = []
        self.left_out: Counter[str] = Counter()
        self.recut = 0
        self._known = known
        self._dictionary = dictionary
        self._longest = longest
        self._segmenter = segmenter
        self._seen: set[bytes] = set()

    @property
    def drawn(self) -> int:
        """How many draws were given."""
        return len(self.kept) + sum(self.left_out.values())

    def add(self, draws: Sequence[Array]) -> Iterator[int]:
        """Add draws; yields 1 for each that is kept."""
        for drawn in draws:
            ids = drawn if self._segmenter is None else self._cut_again(drawn, self._segmenter)
            key = digest(ids)
            reason = self._reason(drawn, ids, key)
            if reason is not None:
                self.left_out[reason] += 1
                continue
            self._seen.add(key)
            self.kept.append(ids)
            self.recut += not np.array_equal(ids, drawn)
            yield 1

    def _reason(self, drawn: Array, ids: Array, key: bytes) -> str | None:
        if len(drawn) > self._longest:
            return CUT
        if len(ids) < 2 or self._dictionary.unk() in ids:
            return NO_TEXT
        subset = self._known.subset_of(key)
        if subset is not None:
            return f"in {subset}"
        return REPEATED if key in self._seen else None

    def _cut_again(self, drawn: Array, segmenter: Segmenter) -> Array:
        text = segmenter.decode([self._dictionary[i] for i in drawn[:-1].tolist()])
        pieces = segmenter.encode(text, out_type=str)
        line = self._dictionary.encode_line(" ".join(pieces), add_if_not_exist=False)
        return line.numpy().astype(drawn.dtype)


def digest(ids: Array) -> bytes:
    """Return what stands for a sentence's pieces."""
    return hashlib.blake2b(np.ascontiguousarray(ids, "<u4").data, digest_size=16).digest()
