"""One shard: a run of sentences, built in memory by a writer and read from the map by a reader."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seqdistill.errors import InputError
from seqdistill.targets.store.files import Array, MappedTensors, tensors_to_bytes
from seqdistill.targets.store.prior import add_sums
from seqdistill.targets.store.settings import StorePlan
from seqdistill.targets.store.sparsify import TokenRows

#: Arrays with a row for each token and for each piece of a token; checked in this order.
_OF_TOKENS = ("scalars", "counts")
_OF_ENTRIES = ("pieces", "probs", "log_probs")
#: What to do about a file of a store that is bad.
REPAIR = (
    "delete this file and repeat the command that made the store: it makes the file again and "
    "keeps the others"
)
#: And about a file that is not there.
REMAKE = "repeat the command that made the store: it makes this file again and keeps the others"
SUMS = ("tail_sums", "tail_weights", "log_sums")


def sentence_checksum(source: Array, target: Array) -> tuple[int, int]:
    """Return the CRC-32 of a sentence's token ids, of both sides."""
    return (ids_checksum(source), ids_checksum(target))


def ids_checksum(ids: Array) -> int:
    """Return the CRC-32 of token ids."""
    return zlib.crc32(np.ascontiguousarray(ids, "<u4").data)


class ShardBuilder:
    """Collects the tokens of a shard's sentences, which may come in any order.

    Args:
        plan: of the store.
        index: of the shard.
        data_checksums: :func:`sentence_checksum` of each of its S sentences.
    """

    def __init__(
        self, plan: StorePlan, index: int, data_checksums: Sequence[tuple[int, int]]
    ) -> None:
        self.plan = plan
        self.index = index
        self.sentences = plan.settings.sentences_of(index, plan.sentences)
        self._data_checksums = np.asarray(data_checksums, np.uint32).reshape(-1, 2)
        self._arrays: dict[int, dict[str, Array]] = {}
        self._sums: dict[str, Array] = {}

    def add(self, sentences: Sequence[int], lengths: Sequence[int], rows: TokenRows) -> None:
        """Add whole sentences.

        Args:
            sentences: their numbers in the corpus.
            lengths: their tokens.
            rows: of these tokens, one sentence after another.
        """
        tokens = np.cumsum([0, *lengths])
        entries = np.concatenate([[0], np.cumsum(rows.counts)])[tokens]
        of_tokens = {"scalars": rows.scalars}
        of_entries = {"pieces": rows.pieces, "probs": rows.probs}
        if self.plan.settings.is_adaptive:
            of_tokens["counts"] = rows.counts.astype(np.uint32)
        if rows.log_probs is not None:
            of_entries["log_probs"] = rows.log_probs
        for n, sentence in enumerate(sentences):
            t, e = slice(tokens[n], tokens[n + 1]), slice(entries[n], entries[n + 1])
            self._arrays[sentence] = {name: array[t] for name, array in of_tokens.items()}
            self._arrays[sentence] |= {name: array[e] for name, array in of_entries.items()}
        add_sums(self._sums, rows.prior_sums)

    def to_bytes(self) -> bytes:
        """Return the shard's file; sentences that were not added have no tokens."""
        plan, settings = self.plan, self.plan.settings
        per_sentence = [self._arrays.get(sentence) for sentence in self.sentences]
        present = [arrays for arrays in per_sentence if arrays is not None]
        arrays: dict[str, Array] = {}
        if present:
            for name in present[0]:
                arrays[name] = np.concatenate([of[name] for of in present])
        if not settings.is_adaptive:
            for name in _OF_ENTRIES:
                if name in arrays:
                    arrays[name] = arrays[name].reshape(-1, settings.widest)

        def offsets(name: str) -> Array:
            sizes = [0 if of is None else len(of[name]) for of in per_sentence]
            return np.cumsum([0, *sizes], dtype=np.int64)

        arrays["token_offsets"] = offsets("scalars")
        if settings.is_adaptive:
            arrays["entry_offsets"] = offsets("pieces")
        arrays["data_checksums"] = self._data_checksums
        checksums = [0 if of is None else _checksum(of) for of in per_sentence]
        arrays["checksums"] = np.asarray(checksums, np.uint32)
        metadata = {"shard": self.index, "store": plan.digest, "columns": settings.columns}
        return tensors_to_bytes(arrays | self._sums, metadata)


class Shard:
    """A shard on the disk.

    Args:
        path: its file.
        plan: of the store that it must belong to.
        index: its number.

    Attributes:
        sentences: the corpus's sentences that it holds.
        tokens: how many.

    Raises:
        InputError: the file is damaged, or of another store.
    """

    def __init__(self, path: Path, plan: StorePlan, index: int) -> None:
        self.path = path
        self.index = index
        self.settings = plan.settings
        self.sentences = plan.settings.sentences_of(index, plan.sentences)
        mapped = MappedTensors(path)
        if mapped.metadata.get("store") != plan.digest or mapped.metadata.get("shard") != index:
            raise InputError(f"{path}: not shard {index} of this store; {REPAIR}")
        self.arrays = mapped.arrays
        self._check_shapes()
        self.tokens = len(self.arrays.get("scalars", ()))
        self._checked = tuple(n for n in (*_OF_TOKENS, *_OF_ENTRIES) if n in self.arrays)
        self._token_offsets = self.arrays["token_offsets"]
        self._entry_offsets = self.arrays.get("entry_offsets")

    @property
    def sums(self) -> dict[str, Array]:
        """What its tokens add to the prior."""
        return {name: self.arrays[name] for name in SUMS if name in self.arrays}

    def data_checksums(self, sentence: int) -> tuple[int, int]:
        """Return the CRC-32 of a sentence's token ids, source and target."""
        source, target = self.arrays["data_checksums"][sentence - self.sentences.start].tolist()
        return source, target

    def length(self, sentence: int) -> int:
        """Return a sentence's tokens; 0 if it was left out."""
        row = sentence - self.sentences.start
        return int(self._token_offsets[row + 1] - self._token_offsets[row])

    def rows(self, sentence: int, *, check: bool = True) -> dict[str, Array]:
        """Return a sentence's rows of the arrays of tokens and of entries: views, no copies.

        Raises:
            InputError: they are not what was written (``check``).
        """
        row = sentence - self.sentences.start
        offsets = self._token_offsets
        tokens = slice(int(offsets[row]), int(offsets[row + 1]))
        entries = tokens
        if self._entry_offsets is not None:
            entries = slice(int(self._entry_offsets[row]), int(self._entry_offsets[row + 1]))
        arrays = self.arrays
        found = {
            name: arrays[name][tokens if name in _OF_TOKENS else entries] for name in self._checked
        }
        if check and tokens.stop != tokens.start:
            is_ordered = 0 <= tokens.start < tokens.stop <= self.tokens
            if not is_ordered or _checksum(found) != self.arrays["checksums"][row]:
                raise InputError(
                    f"{self.path}: sentence {sentence} is damaged (its CRC-32 is not the one that "
                    f"was written with it); {REPAIR}"
                )
        return found

    def _check_shapes(self) -> None:
        arrays, settings = self.arrays, self.settings
        S, V = len(self.sentences), settings.vocabulary_size
        wanted = {"token_offsets": (S + 1,), "checksums": (S,), "data_checksums": (S, 2)}
        if settings.is_adaptive:
            wanted["entry_offsets"] = (S + 1,)
        wrong = [name for name, shape in wanted.items() if _shape(arrays, name) != shape]
        if not wrong and arrays["token_offsets"][-1]:
            tokens = int(arrays["token_offsets"][-1])
            wanted = {"scalars": (tokens, len(settings.columns))}
            entries: tuple[int, ...] = (tokens, settings.widest)
            if settings.is_adaptive:
                wanted["counts"] = (tokens,)
                entries = (int(arrays["entry_offsets"][-1]),)
            of_entries = _OF_ENTRIES if settings.for_end2 else _OF_ENTRIES[:2]
            wanted |= dict.fromkeys(of_entries, entries)
            wanted |= dict.fromkeys(SUMS if settings.for_end2 else SUMS[:2], (V,))
            wrong = [name for name, shape in wanted.items() if _shape(arrays, name) != shape]
        if wrong:
            raise InputError(
                f"{self.path}: damaged: {', '.join(wrong)} missing or of a wrong size; {REPAIR}"
            )


def _shape(arrays: dict[str, Array], name: str) -> tuple[int, ...] | None:
    return arrays[name].shape if name in arrays else None


def _checksum(arrays: dict[str, Array]) -> int:
    value = 0
    for name in (*_OF_TOKENS, *_OF_ENTRIES):
        if name in arrays:
            value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, value)
    return value
