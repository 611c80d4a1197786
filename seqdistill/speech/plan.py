"""What a prepared folder is to become, and what one is already."""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError, UsageError
from seqdistill.files import LOCK, PART, read_json, sha256_of_file
from seqdistill.records import differences
from seqdistill.speech.configuration import (
    CONFIG,
    DICTIONARY,
    PIECE_MODEL,
    STATISTICS,
    resolve_policy,
)
from seqdistill.speech.filterbanks import WINDOW_SECONDS
from seqdistill.speech.layout import Listing
from seqdistill.speech.problems import Tolerance
from seqdistill.speech.shards import Demands

FORMAT, VERSION = "seqdistill prepared speech", 1
TRAIN = "train"
AUDIO = ("zip", "on-the-fly")
#: Written last; a folder with it is finished.
RECORD = "prepare.json"
PROBLEMS = "problems.tsv"
#: What is needed while a folder is made only.
WORK = ".prepare"
PLAN = "plan.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Settings that features depend on; the others may change as long as no set is finished.
_OF_FEATURES = ("rate", "bins", "min_seconds", "max_seconds", "audio", "cmvn")


@dataclass(frozen=True)
class Options:
    """What ``seqdistill prepare-speech`` is told.

    Attributes:
        output: the folder to make.
        splits: split folders by the sets' names.
        pieces: of the model that is trained.
        piece_type: of the model that is trained.
        piece_model: a given model instead.
        dictionary: a given dictionary of it.
        cmvn: ``utterance``, ``global`` or ``none``.
        specaugment: ``none``, a policy's name or a YAML file.
        audio: ``zip`` or ``on-the-fly``.
        rate: samples a second.
        bins: of the filterbanks.
        min_seconds: shorter utterances are left out.
        max_seconds: longer utterances are left out.
        workers: processes.
        max_problems: how many problems a set may have.
        overwrite: begin a folder anew.
    """

    output: Path
    splits: Mapping[str, Sequence[str]]
    pieces: int = 5000
    piece_type: str = "unigram"
    piece_model: Path | None = None
    dictionary: Path | None = None
    cmvn: str = "utterance"
    specaugment: str = "none"
    audio: str = "zip"
    rate: int = 16000
    bins: int = 80
    min_seconds: float = 0.1
    max_seconds: float = 40.0
    workers: int = 1
    max_problems: Tolerance = field(default_factory=lambda: Tolerance(None, 1.0))
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in self.splits:
            _check_name(name)
        if not WINDOW_SECONDS <= self.min_seconds <= self.max_seconds:
            raise UsageError(
                f"expected {WINDOW_SECONDS} <= --min-seconds <= --max-seconds, got "
                f"{self.min_seconds:g} and {self.max_seconds:g}; {WINDOW_SECONDS} s are one window"
            )
        if self.dictionary is not None and self.piece_model is None:
            raise UsageError("--dictionary is that of a model: give --piece-model, too")

    def settings(self) -> dict[str, Any]:
        """Return what a folder's content depends on, the sets apart.

        Raises:
            InputError: a given file is missing.
        """
        given = self.piece_model is not None
        return {
            "rate": self.rate,
            "bins": self.bins,
            "min_seconds": self.min_seconds,
            "max_seconds": self.max_seconds,
            "audio": self.audio,
            "cmvn": self.cmvn,
            "pieces": None if given else self.pieces,
            "piece_type": None if given else self.piece_type,
            "piece_model": _print_of(self.piece_model),
            "dictionary": _print_of(self.dictionary),
            "specaugment": resolve_policy(self.specaugment, self.bins),
        }

    def demands(self, name: str) -> Demands:
        """Return what is asked of every recording of a set."""
        keep_moments = name == TRAIN and self.cmvn == "global"
        return Demands(
            self.rate,
            self.bins,
            self.min_seconds,
            self.max_seconds,
            self.audio == "zip",
            keep_moments,
        )


@dataclass(frozen=True)
class State:
    """What is in a folder already.

    Attributes:
        settings: with which it was begun; None if there is nothing.
        sets: by name: folders, recordings, and their SHA-256.
        finished: by name, the results of sets that are done.
    """

    settings: Mapping[str, Any] | None = None
    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finished: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_state(folder: Path) -> State:
    """Say what is in a folder.

    Raises:
        InputError: something else than prepared speech, or that of another version.
    """
    record = _read(folder / RECORD)
    plan = _read(folder / WORK / PLAN)
    newest = plan or record
    if newest is None:
        strangers = [] if not folder.is_dir() else sorted(
            path.name
            for path in folder.iterdir()
            if path.name not in (WORK, LOCK, PROBLEMS) and path.suffix != PART
        )  # fmt: skip
        if strangers:
            raise InputError(
                f"{folder} is not empty ({strangers[0]}) and no prepared speech; choose another "
                "folder"
            )
        return State()
    finished = {} if record is None else record["sets"]
    common = [PIECE_MODEL, DICTIONARY, CONFIG]
    if newest["settings"]["cmvn"] == "global":
        common.append(STATISTICS)
    is_whole = all((folder / name).exists() for name in common)
    finished = {
        name: results
        for name, results in finished.items()
        if is_whole and all((folder / file).exists() for file in results["files"])
    }
    return State(newest["settings"], newest["sets"], finished)


def check_settings(folder: Path, state: State, settings: Mapping[str, Any]) -> None:
    """Raise an :class:`InputError` that names what differs between a folder and a new command."""
    if state.settings is None:
        return
    keys = settings if state.finished else _OF_FEATURES
    expected, found = ({key: one.get(key) for key in keys} for one in (state.settings, settings))
    _refuse(folder, differences(expected, found, holder="the folder"))


def check_sets(folder: Path, state: State, sets: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise an :class:`InputError` if a set was begun with other folders, or finished with others.

    Args:
        folder: that is prepared.
        state: of the folder.
        sets: what the command asks for, by name.
    """
    lines = []
    for name in [name for name in sets if name in state.sets]:
        keys = ("folders", "recordings", "sha256") if name in state.finished else ("folders",)
        old, new = ({key: one[key] for key in keys} for one in (state.sets[name], sets[name]))
        lines += differences(old, new, f"set {name}", holder="the folder")
    _refuse(folder, lines)


def describe_set(folders: Sequence[str], listing: Listing) -> dict[str, Any]:
    """Return what a set is made of."""
    digest = hashlib.sha256()
    for one in listing.recordings:
        digest.update("\0".join((one.id, str(one.path), str(one.size), one.text or "")).encode())
        digest.update(b"\n")
    return {
        "folders": list(folders),
        "recordings": len(listing.recordings),
        "sha256": digest.hexdigest(),
    }


def clear(folder: Path) -> None:
    """Remove what was prepared, to begin anew; the folder must be locked.

    Raises:
        InputError: the folder holds something else, too.
    """
    own = {LOCK, WORK, RECORD, PROBLEMS, CONFIG, DICTIONARY, PIECE_MODEL, STATISTICS}
    for record in (_read(folder / RECORD), _read(folder / WORK / PLAN)):
        for name in () if record is None else record["sets"]:
            own |= {f"{name}.tsv", features_name(name)}
    paths = list(folder.iterdir())
    parts = [path for path in paths if path.suffix == PART]
    strangers = sorted({path.name for path in paths} - own - {path.name for path in parts})
    if strangers:
        raise InputError(
            f"{folder} holds {', '.join(strangers[:3])}{' …' * (len(strangers) > 3)}, which "
            "prepare-speech did not make; nothing was removed. Choose another folder, or move "
            "these away"
        )
    # From here on nothing is finished; the plan, which goes last, still says whose files these are.
    work = folder / WORK
    work.mkdir(exist_ok=True)
    if (work / PLAN).exists():
        (folder / RECORD).unlink(missing_ok=True)
    elif (folder / RECORD).exists():
        os.replace(folder / RECORD, work / PLAN)
    for path in paths:
        if path.name not in (LOCK, WORK, RECORD):
            path.unlink()
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(work)


def features_name(name: str) -> str:
    """Return the name of a set's zip."""
    return f"{name}.features.zip"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == PROBLEMS.partition(".")[0]:
        raise UsageError(
            f"--split: expected a set's name of letters, digits, '.', '_' and '-', got {name!r}"
        )
    if name.startswith(TRAIN) and name != TRAIN:
        raise UsageError(
            f"--split {name}: fairseq takes every set whose name begins with 'train' for training "
            f"data and would augment it; call it {TRAIN} or choose another name"
        )


def _print_of(path: Path | None) -> dict[str, str] | None:
    return None if path is None else {"name": path.name, "sha256": sha256_of_file(path)}


def _read(path: Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    record: Mapping[str, Any] = read_json(path)
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise InputError(
            f"{path}: expected {FORMAT!r} of version {VERSION}, found "
            f"{record.get('format')!r} of version {record.get('version')}"
        )
    return record


def _refuse(folder: Path, lines: Sequence[str]) -> None:
    if lines:
        raise InputError(
            f"{folder} was prepared of something else:\n  "
            + "\n  ".join(lines)
            + "\ngive what it was begun with, or another folder, or begin it anew (--overwrite)"
        )
