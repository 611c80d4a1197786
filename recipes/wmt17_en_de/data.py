"""Text of the recipe: four corpora, cleaned; news test sets; five sets outside the domain."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from recipes.common.cleaning import REASONS, Cleaner, Count, Rules
from recipes.common.download import gigabytes
from recipes.common.text import main, read_lines, write_lines, write_parallel
from recipes.wmt17_en_de.archives import ARCHIVES, CORPORA
from recipes.wmt17_en_de.invented import TRANSCRIPTS, write_raw
from recipes.wmt17_en_de.raw import read_pairs, read_sgm, read_transcripts
from seqdistill.errors import InputError
from seqdistill.files import atomic_write

SHARED_MODULES = ("text", "cleaning")
"""Modules of ``recipes/common`` that make this text; a change of them makes it anew."""

COUNTS = "cleaning.json"
"""How many pairs cleaning read, kept and dropped, and why; beside the text."""


@dataclass(frozen=True)
class DataOptions:
    """Options under ``data.options`` of the recipe.

    Attributes:
        root: the folder of ``recipes.wmt17_en_de.download``; None: a corpus is made up.
        corpora: those to train on.
        librispeech: a folder of LibriSpeech's transcripts, ``LibriSpeech/test-clean``; None: the
            set ``speech_transcripts`` is left out.
        rules: when a training pair is dropped.
        train_limit: pairs that are kept of each corpus, the first ones; None: all.
        limit: sentences of every other set, likewise.
        invented: pairs to train on where there is no ``root``.
        seed: of the made-up corpus.
    """

    root: str | None = None
    corpora: list[str] = field(default_factory=lambda: list(CORPORA))
    librispeech: str | None = None
    rules: Rules = field(default_factory=Rules)
    train_limit: int | None = None
    limit: int | None = None
    invented: int = 400
    seed: int = 1


def source_files(options: DataOptions) -> list[Path]:
    """Return every file that the text is made from."""
    files: list[Path] = []
    if options.root is not None:
        root = Path(options.root)
        names = [name for name in ARCHIVES if name not in CORPORA or name in options.corpora]
        names = [name for name in names if name != "khresmoi" or (root / name).is_dir()]
        files += [root / name / file for name in names for file in ARCHIVES[name].files]
    if options.librispeech is not None:
        files += sorted(Path(options.librispeech).glob("*/*/*.trans.txt"))
    return files


def absent_sets(options: DataOptions) -> dict[str, str]:
    """Return the out-of-domain sets whose data is not there: name → reason.

    Of a ``root`` that is missing as a whole nothing is said: that is an error when it is read.
    """
    if options.root is None:
        return {}
    absent = {}
    root = Path(options.root)
    if root.is_dir() and not (root / "khresmoi").is_dir():
        absent["biomedical"] = (
            f"there is no khresmoi in {root} (python -m recipes.wmt17_en_de.download {root} "
            "--only khresmoi)"
        )
    if options.librispeech is None:
        absent["speech_transcripts"] = (
            "data.options.librispeech names no folder LibriSpeech/test-clean (python -m "
            "recipes.librispeech.download FOLDER --splits test-clean)"
        )
    return absent


def write_text(options: DataOptions, folder: Path, source_lang: str, target_lang: str) -> None:
    """Write train, valid, the test sets and the out-of-domain sets to ``folder``.

    The permuted set is not among them: its *pieces* are shuffled, once there are some.

    Raises:
        InputError: data is missing or damaged, nothing is left of it, or a number makes no sense.
    """
    if (source_lang, target_lang) != ("en", "de"):
        raise InputError(
            f"this recipe's data is for data.source_lang en and data.target_lang de, got "
            f"{source_lang} and {target_lang}"
        )
    _check(options)
    root, speech = _places(options, folder)
    newstest = root / "newstest"
    sets = {"valid": [read_lines(newstest / f"newstest2013.{side}") for side in ("en", "de")]}
    for name, year in (("test", 2014), ("newstest2017", 2017)):
        sets[name] = [read_sgm(newstest / f"newstest{year}.{side}.sgm") for side in ("en", "de")]
    if (root / "khresmoi").is_dir():
        sets["biomedical"] = [
            [text for part in ("dev", "test") for text in read_sgm(_khresmoi(root, part, side))]
            for side in ("en", "de")
        ]
    for name, (source, target) in sets.items():
        sides = (source[: options.limit], target[: options.limit])
        write_parallel(folder, name, ("en", sides[0]), ("de", sides[1]))
    # What a system that expects English makes of other languages; there is no reference.
    others = {
        "german_source": sets["test"][1],
        "french_source": read_sgm(newstest / "newstest2014.fr.sgm"),
    }
    if speech is not None:
        others["speech_transcripts"] = read_transcripts(speech)
    for name, lines in others.items():
        write_lines(folder / f"{name}.en", lines[: options.limit])
    held_out = [line for source, _ in sets.values() for line in source]
    _write_train(options, root, folder, Cleaner(options.rules, held_out))


def _check(options: DataOptions) -> None:
    for name in ("train_limit", "limit", "invented"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"data.options.{name} must be at least 1, got {value}")
    strange = [name for name in options.corpora if name not in CORPORA]
    if strange or not options.corpora:
        raise InputError(
            f"data.options.corpora must be some of {', '.join(CORPORA)}, got {options.corpora}"
        )


def _places(options: DataOptions, folder: Path) -> tuple[Path, Path | None]:
    """Return where the task's data is, and the transcripts; both are made up without a ``root``."""
    if options.root is None:
        root = folder.parent / "invented"
        write_raw(root, options.invented, options.limit or 100, options.seed)
        return root, root / TRANSCRIPTS
    root = Path(options.root)
    if not root.is_dir():
        size = gigabytes(sum(archive.size or 0 for archive in ARCHIVES.values()))
        raise InputError(
            f"there is no folder {root}; python -m recipes.wmt17_en_de.download {root} --yes "
            f"downloads {size}; or name another folder (--data FOLDER of run.sh, --set "
            "data.options.root=FOLDER)"
        )
    return root, None if options.librispeech is None else Path(options.librispeech)


def _khresmoi(root: Path, part: str, side: str) -> Path:
    return root / "khresmoi" / f"{part}.{side}.sgm"


def _write_train(options: DataOptions, root: Path, folder: Path, cleaner: Cleaner) -> None:
    """Write the training set pair by pair, and what cleaning dropped."""
    with (
        atomic_write(folder / "train.en") as sources,
        atomic_write(folder / "train.de") as targets,
    ):
        for source, target in _clean_pairs(options, root, cleaner):
            sources.write(f"{source}\n")
            targets.write(f"{target}\n")
    if not any(count.kept for count in cleaner.counts.values()):
        raise InputError(
            f"{root}: cleaning leaves no pair to train on; data.options.rules says why"
        )
    with atomic_write(folder / COUNTS) as handle:
        counts = {name: vars(count) for name, count in cleaner.counts.items()}
        json.dump({"reasons": REASONS, "corpora": counts}, handle, indent=2)
    print(counts_table(cleaner.counts))


def _clean_pairs(options: DataOptions, root: Path, cleaner: Cleaner) -> Iterator[tuple[str, str]]:
    for name in options.corpora:
        pairs = read_pairs(root / name / "train.en", root / name / "train.de")
        yield from islice(cleaner.clean(name, pairs), options.train_limit)


def counts_table(counts: dict[str, Count]) -> str:
    """Return the counts as text: a line a corpus.

    Example:
        >>> print(counts_table({"web": Count(3, 2)}))
        web: 3 pairs read, 2 kept
    """
    lines = []
    for name, count in counts.items():
        dropped = "".join(f", {count.dropped[why]} {why}" for why in REASONS if count.dropped[why])
        lines.append(f"{name}: {count.read} pairs read, {count.kept} kept{dropped}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(DataOptions, write_text)
