"""Audio of the recipe: LibriSpeech, or any folder in its layout; what lies outside; or tones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

from recipes.an4.tones import STRANGE_VOICE, draw_tones
from recipes.common.audio import (
    SetMaker,
    Spoken,
    link_speakers,
    main,
    noisy,
    read_split,
    write_split,
)
from recipes.common.download import gigabytes
from recipes.librispeech.download import CORPUS, SPLITS, space_needed
from seqdistill.errors import InputError

GIVEN = {
    "ami": "python -m recipes.librispeech.ami",
    "common_voice_fr": "python -m recipes.librispeech.common_voice",
}
"""Sets that the user points at: name (of the set, and of the option) → what makes such a folder."""

TONES = 12
"""Strings of tones in a set that is not for training, where ``limit`` does not say."""

Utterances = Callable[[], Iterable[Spoken]]


@dataclass(frozen=True)
class DataOptions:
    """Options under ``data.options`` of the recipe.

    Attributes:
        root: a folder of split folders, ``<split>/<speaker>/<chapter>/*.flac``, or one with a
            folder ``LibriSpeech`` of these; None: strings of tones are made up.
        train, valid, test, test_other: the splits in it that make up a set, joined; ``*`` stands
            for any part of a name.
        ami: AMI's test set in the same layout; None: left out.
        common_voice_fr: the same of Common Voice in French.
        noise_db: signal-to-noise ratios in decibels; each gives a noisy copy of the test set.
        train_limit: utterances of the training set, the first ones; None: all there are.
        limit: the same of every other set.
        tones: training strings where there is no ``root``.
        seed: of noise and tones.
    """

    root: str | None = None
    train: list[str] = field(default_factory=lambda: ["train-*"])
    valid: list[str] = field(default_factory=lambda: ["dev-*"])
    test: list[str] = field(default_factory=lambda: ["test-clean"])
    test_other: list[str] = field(default_factory=lambda: ["test-other"])
    ami: str | None = None
    common_voice_fr: str | None = None
    noise_db: list[int] = field(default_factory=list)
    train_limit: int | None = None
    limit: int | None = None
    tones: int = 60
    seed: int = 1


def make_sets(options: DataOptions) -> dict[str, SetMaker]:
    """Return how every set is made; those that :func:`absent_sets` names are not among them.

    Raises:
        InputError: there is no data where the options say, or a number makes no sense.
    """
    for name in ("train_limit", "limit", "tones"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"data.options.{name} must be at least 1, got {value}")
    sets, test = _tones(options) if options.root is None else _splits(options)
    for name in GIVEN:
        folder = getattr(options, name)
        if folder is not None:
            sets[name] = _set_of([_existing(Path(folder), name)], options.limit)
    for snr in options.noise_db:
        sets[f"noise{snr}"] = noisy(test, snr, options.seed)
    return sets


def absent_sets(options: DataOptions) -> dict[str, str]:
    """Return the out-of-domain sets whose data is not there: name → reason.

    Of a ``root`` that is missing as a whole nothing is said: that is an error when it is read.
    """
    absent = {
        name: f"data.options.{name} names no folder ({program} makes one)"
        for name, program in GIVEN.items()
        if getattr(options, name) is None
    }
    splits = None if options.root is None else _splits_folder(Path(options.root))
    if splits is not None and splits.is_dir() and not _matching(splits, options.test_other):
        absent["test_other"] = f"there is no {' or '.join(options.test_other)} in {splits}"
    return absent


def source_files(options: DataOptions) -> list[Path]:
    """Return the transcripts of all data: a change of them makes the sets anew.

    Audio is not among them: a thousand hours take long to read. Of every set its names and sizes
    are recorded, and ``seqdistill prepare-speech`` checks the content.
    """
    folders = [Path(folder) for name in GIVEN if (folder := getattr(options, name)) is not None]
    if options.root is not None:
        splits = _splits_folder(Path(options.root))
        parts = (options.train, options.valid, options.test, options.test_other)
        folders += [folder for patterns in parts for folder in _matching(splits, patterns)]
    return sorted({path for folder in folders for path in folder.glob("*/*/*.trans.txt")})


def _splits(options: DataOptions) -> tuple[dict[str, SetMaker], Utterances]:
    """The sets of a folder in the layout."""
    root = Path(options.root or "")
    splits = _splits_folder(root)
    if not splits.is_dir():
        raise InputError(missing_data(root))
    sets, folders = {}, {}
    for name in ("train", "valid", "test", "test_other"):
        patterns = getattr(options, name)
        folders[name] = _matching(splits, patterns)
        if folders[name]:
            limit = options.train_limit if name == "train" else options.limit
            sets[name] = _set_of(folders[name], limit)
        elif name != "test_other":
            there = ", ".join(sorted(path.name for path in splits.iterdir() if path.is_dir()))
            raise InputError(
                f"{splits}: expected split folders {' or '.join(patterns)}, found {there or 'none'}"
                f"; name others (--set data.options.{name}=[NAME]), or see: {missing_data(root)}"
            )
    return sets, partial(_first, folders["test"], options.limit)


def missing_data(root: Path) -> str:
    """Say how LibriSpeech comes to a folder, and how large it is.

    Example:
        >>> print(missing_data(Path("/nowhere/speech")))  # doctest: +ELLIPSIS
        there is no LibriSpeech in /nowhere/speech; python -m recipes.librispeech.download ...
    """
    size = sum(split.size for split in SPLITS.values())
    room = space_needed(root, SPLITS, keep_archives=False)
    return (
        f"there is no {CORPUS} in {root}; python -m recipes.librispeech.download {root} --yes "
        f"downloads {gigabytes(size)} and needs {gigabytes(room)} of room for a while; or name "
        "another folder (--data FOLDER of run.sh, --set data.options.root=FOLDER)"
    )


def _tones(options: DataOptions) -> tuple[dict[str, SetMaker], Utterances]:
    """Strings of tones in place of speech; a voice far above the others in place of test-other."""
    count = TONES if options.limit is None else options.limit
    draw = partial(draw_tones, seed=options.seed)
    test = partial(draw, count, part="test")
    parts: dict[str, Utterances] = {
        "train": partial(draw, options.tones, part="train"),
        "valid": partial(draw, count, part="valid"),
        "test": test,
        "test_other": partial(draw, count, part="other", voices=STRANGE_VOICE),
    }
    return {name: _written(utterances) for name, utterances in parts.items()}, test


def _set_of(folders: Sequence[Path], limit: int | None) -> SetMaker:
    """Link to the speakers of whole folders; of the first utterances make copies."""
    return link_speakers(folders) if limit is None else _written(partial(_first, folders, limit))


def _first(folders: Sequence[Path], limit: int | None) -> Iterator[Spoken]:
    return islice(chain.from_iterable(read_split(folder) for folder in folders), limit)


def _written(utterances: Utterances) -> SetMaker:
    return lambda folder: write_split(folder, utterances())


def _splits_folder(root: Path) -> Path:
    return root / CORPUS if (root / CORPUS).is_dir() else root


def _matching(splits: Path, patterns: Sequence[str]) -> list[Path]:
    found = {path for pattern in patterns for path in splits.glob(pattern) if path.is_dir()}
    return sorted(found)


def _existing(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"data.options.{name}: {folder}: no such folder; expected <speaker>/<chapter>/*.flac "
            f"in it, as {GIVEN[name]} writes"
        )
    return folder


if __name__ == "__main__":
    main(DataOptions, make_sets, hash_audio=False)
