"""What a store keeps of each token, and the names of its files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError
from seqdistill.targets.store.fingerprint import Fingerprint

FORMAT = "seqdistill target store"
VERSION = 1
#: Written first: what the store is to become. Checked whenever the writing goes on.
PLAN = "plan.json"
#: Written last: a folder with it is a finished store.
MANIFEST = "manifest.json"
PRIOR = "prior.safetensors"
VOCABULARY = "vocabulary.json"
SHARDS = "shards"

STORE_DTYPES = ("float16", "float32")
#: Piece numbers up to this size fit 16 bits.
LARGEST_16_BIT_VOCABULARY = 65536
DEFAULT_MAX_K = 1024


@dataclass(frozen=True)
class StoreSettings:
    """What is kept of each token; the content of a store depends on every one of these.

    Attributes:
        vocabulary_size: V.
        members: M.
        top_k: pieces a token; None: as many as ``tail_bound`` asks for.
        tail_bound: keep the fewest pieces whose tail mass is at most this; one of the two is given.
        max_k: but never more than this.
        dtype: of the stored probabilities, ``float16`` or ``float32``.
        temperature: at which the members are read.
        for_end2: keep ℓ̄ as well, for EnD².
        exact_precision: keep 1/β̃₀ of ``concentration="exact"`` as well.
        shard_sentences: sentences of a shard; the last may have fewer.
        origin: how the targets came about, as plain values: subset, decoding, teachers' dtype.
    """

    vocabulary_size: int
    members: int
    top_k: int | None = None
    tail_bound: float | None = None
    max_k: int | None = None
    dtype: str = "float16"
    temperature: float = 1.0
    for_end2: bool = False
    exact_precision: bool = False
    shard_sentences: int = 2048
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        V = self.vocabulary_size
        if (self.top_k is None) == (self.tail_bound is None):
            raise InputError("expected either a number of pieces (k) or a bound of the tail mass")
        for name, k in (("k", self.top_k), ("the largest k", self.max_k)):
            if k is not None and not 1 <= k <= V:
                raise InputError(
                    f"expected {name} between 1 and the vocabulary's {V} entries, got {k}; "
                    f"k = {V} keeps everything"
                )
        if self.tail_bound is not None:
            if not 0 <= self.tail_bound < 1:
                raise InputError(f"expected a tail mass in [0, 1), got {self.tail_bound}")
            if self.max_k is None:
                object.__setattr__(self, "max_k", min(DEFAULT_MAX_K, V))
        elif self.max_k is not None:
            raise InputError("a largest k is for an adaptive one; give a bound of the tail mass")
        if self.dtype not in STORE_DTYPES:
            raise InputError(f"expected a dtype of {', '.join(STORE_DTYPES)}, got {self.dtype!r}")
        if not self.temperature > 0:
            raise InputError(f"expected a temperature above 0, got {self.temperature}")
        if self.shard_sentences < 1:
            raise InputError(f"expected at least 1 sentence a shard, got {self.shard_sentences}")

    @property
    def widest(self) -> int:
        """The most pieces that a token can have."""
        return self.top_k or self.max_k or self.vocabulary_size

    @property
    def is_adaptive(self) -> bool:
        """Whether tokens have different numbers of pieces."""
        return self.tail_bound is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """What is kept of a token beside its pieces, a float32 each."""
        columns = ["tail_mass", "total_uncertainty", "mutual_information"]
        columns.append("reverse_mutual_information")  # EPKL = MI + RMI
        if self.exact_precision:
            columns.append("exact_inverse_precision")
        if self.for_end2:
            columns.append("tail_log_mean")
        return tuple(columns)

    @property
    def bytes_per_entry(self) -> int:
        """Bytes of one piece of one token."""
        wide = self.vocabulary_size > LARGEST_16_BIT_VOCABULARY
        number = 2 if self.dtype == "float16" else 4
        return (4 if wide else 2) + number * (2 if self.for_end2 else 1)

    def shards(self, sentences: int) -> int:
        """Return the number of shards of a number of sentences."""
        return -(-sentences // self.shard_sentences)

    def sentences_of(self, shard: int, sentences: int) -> range:
        """Return the sentences of a shard."""
        first = shard * self.shard_sentences
        return range(first, min(first + self.shard_sentences, sentences))


@dataclass(frozen=True)
class StorePlan:
    """What a store is to become.

    Attributes:
        settings: what is kept.
        fingerprint: of what.
        symbols: the target dictionary's, so that a difference can be named; V of them.
        made_by: command, versions: to know, not to compare.
    """

    settings: StoreSettings
    fingerprint: Fingerprint
    symbols: Sequence[str]
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentences(self) -> int:
        """How many sentences the store has."""
        return self.fingerprint.data.sentences

    @property
    def shards(self) -> int:
        """How many shards the store has."""
        return self.settings.shards(self.sentences)

    @property
    def digest(self) -> str:
        """Tells shards of this store from those of others."""
        compared = self.compared()
        compared["teachers"] = [teacher.sha256 for teacher in self.fingerprint.teachers]
        return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()

    def compared(self) -> dict[str, Any]:
        """Return what has to be the same when the writing goes on (names of teachers aside)."""
        return {"settings": asdict(self.settings)} | self.fingerprint.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON keeps; the symbols lie in a file of their own."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "settings": asdict(self.settings),
            "fingerprint": self.fingerprint.to_dict(),
            "made_by": dict(self.made_by),
        }

    @classmethod
    def from_dict(
        cls, record: Mapping[str, Any], symbols: Sequence[str], path: Path
    ) -> "StorePlan":
        """Read back :meth:`to_dict`.

        Raises:
            InputError: the file at ``path`` is of another format.
        """
        check_format(record, path)
        try:
            return cls(
                StoreSettings(**record["settings"]),
                Fingerprint.from_dict(record["fingerprint"]),
                symbols,
                record["made_by"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged: {error} is missing or wrong") from error


def check_format(record: Any, path: Path) -> None:
    """Raise an :class:`InputError` unless a record is of this format and version."""
    if not isinstance(record, Mapping) or record.get("format") != FORMAT:
        raise InputError(f"{path}: expected the description of a {FORMAT}, found something else")
    if record.get("version") != VERSION:
        raise InputError(
            f"{path}: version {record.get('version')} of the format; this program reads {VERSION}. "
            "Make the store again, or use the seqdistill that made it"
        )


def shard_name(index: int) -> str:
    """Return the file of a shard, relative to the store."""
    return f"{SHARDS}/{index:05d}.safetensors"
