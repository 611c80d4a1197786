"""What a store of hidden states keeps, and the names of its files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from seqdistill.errors import InputError
from seqdistill.targets.states.places import CHOICES
from seqdistill.targets.store.fingerprint import DataPrint, TeacherPrint, data_print_from_dict

FORMAT = "seqdistill state store"
VERSION = 1
#: Written first: what the store is to become.
PLAN = "plan.json"
#: Written last: a folder with it is a finished store.
MANIFEST = "manifest.json"
#: The maps of the layers; written before any shard.
COMPRESSION = "compression.safetensors"
SHARDS = "shards"


@dataclass(frozen=True)
class StatePlan:
    """What a store is to become; its content depends on every one of these but ``environment``.

    Attributes:
        teachers: whose states; each has its own.
        depths: layers of each side of every teacher.
        widths: of the states, D, of each side of every teacher.
        layers: which are kept, ``encoder.6``; of every teacher.
        data: the corpus.
        subset: its name.
        width: w, numbers of a state.
        positions: of a sentence and side; None: all.
        choice: how positions are chosen.
        fit_sentences: sentences that the maps are fitted on.
        seed: of their choice.
        shard_sentences: sentences of a shard.
        environment: what made it.
    """

    teachers: tuple[TeacherPrint, ...]
    depths: Mapping[str, int]
    widths: Mapping[str, int]
    layers: tuple[str, ...]
    data: DataPrint
    subset: str
    width: int = 64
    positions: int | None = None
    choice: str = "rare"
    fit_sentences: int = 1000
    seed: int = 1
    shard_sentences: int = 2048
    environment: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.choice not in CHOICES:
            raise InputError(
                f"expected positions chosen by {' or '.join(CHOICES)}, got {self.choice!r}"
            )
        for name in ("width", "fit_sentences", "shard_sentences"):
            if getattr(self, name) < 1:
                raise InputError(f"expected a {name} of 1 or more, got {getattr(self, name)}")
        if self.positions is not None and self.positions < 1:
            raise InputError(f"expected 1 position or more a sentence, got {self.positions}")
        for layer in self.layers:
            D = self.widths[layer.partition(".")[0]]
            if self.width > D:
                raise InputError(
                    f"the states of {layer} have {D} numbers, so {self.width} cannot be kept of "
                    "them; give a smaller --width"
                )

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of what is kept: ``0.encoder.6`` is of the first teacher."""
        return tuple(f"{t}.{layer}" for t in range(len(self.teachers)) for layer in self.layers)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that layers are kept of."""
        return tuple(dict.fromkeys(layer.partition(".")[0] for layer in self.layers))

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.data.sentences // self.shard_sentences)

    def sentences_of(self, shard: int) -> range:
        """Return the sentences of a shard."""
        first = shard * self.shard_sentences
        return range(first, min(first + self.shard_sentences, self.data.sentences))

    def compared(self) -> dict[str, Any]:
        """Return what two plans are compared by."""
        record = asdict(self)
        record.pop("environment")
        return json.loads(json.dumps(record))  # type: ignore[no-any-return]

    @property
    def digest(self) -> str:
        """SHA-256 of :meth:`compared`; every file of the store carries it."""
        text = json.dumps(self.compared(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON keeps."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: object) -> "StatePlan":
        """Read back :meth:`to_dict`.

        Raises:
            InputError: it is of something else, or of a newer version.
        """
        if record.get("format") != FORMAT:
            raise InputError(f"{where}: expected the plan of a {FORMAT}, found something else")
        if record.get("version") != VERSION:
            raise InputError(
                f"{where}: version {record.get('version')} of a {FORMAT}; this seqdistill reads "
                f"version {VERSION}"
            )
        values = {name: record[name] for name in cls.__dataclass_fields__}
        values["teachers"] = tuple(TeacherPrint(**one) for one in record["teachers"])
        values["layers"] = tuple(record["layers"])
        values["data"] = data_print_from_dict(record["data"])
        return cls(**values)
