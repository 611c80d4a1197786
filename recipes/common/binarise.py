"""fairseq-preprocess over all sets of a recipe, each under its own name.

``fairseq-preprocess`` calls its test sets ``test``, ``test1``, ``test2`` …; here they get their
names back, so that ``--gen-subset news`` says what it decodes. Sets without a reference are
binarised with ``--only-source``.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TRAINING_SETS = ("train", "valid", "test")


def preprocess_command(
    languages: tuple[str, str],
    output: Path,
    dictionary: Path | None,
    *extra: str,
    workers: int = 1,
) -> list[str]:
    """Return a fairseq-preprocess command with one dictionary for both languages."""
    source, target = languages
    program = Path(sys.executable).with_name("fairseq-preprocess")
    command = [str(program), "--source-lang", source, "--target-lang", target]
    command += ["--destdir", str(output), "--workers", str(workers), "--joined-dictionary"]
    if dictionary is not None:
        command += ["--srcdict", str(dictionary)]
    return [*command, *extra]


def binarise(
    pieces: Path,
    output: Path,
    languages: tuple[str, str],
    dictionary: Path | None,
    workers: int = 1,
) -> None:
    """Binarise every set in ``pieces`` into ``output``.

    Args:
        pieces: folder with ``<set>.<language>`` in pieces; ``train``, ``valid``, ``test`` at least.
        output: the folder that fairseq-train and fairseq-generate are given; must be new.
        languages: source and target language.
        dictionary: a fairseq dictionary to use; None makes one of both sides of ``train``.
        workers: processes that read the training set.
    """
    source, target = languages
    names = sorted(
        path.stem for path in pieces.glob(f"*.{source}") if path.stem not in TRAINING_SETS
    )
    parallel = [name for name in names if (pieces / f"{name}.{target}").is_file()]
    source_only = [name for name in names if name not in parallel]

    tests = ",".join(str(pieces / name) for name in ["test", *parallel])
    extra = ["--trainpref", f"{pieces}/train", "--validpref", f"{pieces}/valid"]
    extra += ["--testpref", tests]
    _run(preprocess_command(languages, output, dictionary, *extra, workers=workers))
    for number, name in enumerate(parallel, start=1):
        _rename(output, f"test{number}", name, languages)

    if source_only:
        # A folder of its own: the second call would write its `test` over the first one's.
        folder = output / "source_only"
        tests = ",".join(str(pieces / name) for name in source_only)
        extra = ["--testpref", tests, "--only-source"]
        dictionary = output / f"dict.{source}.txt"
        _run(preprocess_command(languages, folder, dictionary, *extra))
        for number, name in enumerate(source_only):
            _rename(folder, f"test{number or ''}", name, languages)
            for path in folder.glob(f"{name}.*"):
                os.replace(path, output / path.name)
        shutil.rmtree(folder)


def _run(command: Sequence[str]) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True)


def _rename(folder: Path, old: str, new: str, languages: tuple[str, str]) -> None:
    pair = "-".join(languages)
    for path in folder.glob(f"{old}.{pair}.*"):
        os.replace(path, folder / f"{new}{path.name.removeprefix(old)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of :func:`binarise`."""
    parser = argparse.ArgumentParser(description="fairseq-preprocess over all sets of a recipe")
    parser.add_argument("--pieces", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--languages", required=True, nargs=2, metavar=("SOURCE", "TARGET"))
    parser.add_argument("--dictionary", type=Path, help="a given fairseq dictionary")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    given = parser.parse_args(arguments)
    source, target = given.languages
    binarise(given.pieces, given.output, (source, target), given.dictionary, given.workers)


if __name__ == "__main__":
    main()
