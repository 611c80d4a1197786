"""Data folders as fairseq-preprocess makes them, from another with one set replaced or added."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from fairseq.data import Dictionary, indexed_dataset

from fairseq_plugins.target_cache.corpus import CorpusPlace
from seqdistill.files import disk_errors, sync_folder


def write_folder(
    folder: Path,
    corpus: CorpusPlace,
    sides: Mapping[str, tuple[Dictionary, Sequence[torch.Tensor]]],
) -> None:
    """Make a data folder, whole or not at all.

    Args:
        folder: its place.
        corpus: names the new folder's own subset, and the folder that lends it the others (they are
            linked) and the dictionaries (copied).
        sides: language → dictionary and the sentences of the subset, each with its end; a language
            that is missing is not there.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    with disk_errors(part):
        for language in (corpus.source, corpus.target):
            name = f"dict.{language}.txt"
            shutil.copyfile(Path(corpus.folder) / name, part / name)
        for language, (dictionary, sentences) in sides.items():
            stem = str(part / f"{corpus.subset}.{corpus.source}-{corpus.target}.{language}")
            builder = indexed_dataset.make_builder(f"{stem}.bin", "mmap", len(dictionary))
            for sentence in sentences:
                builder.add_item(sentence)
            builder.finalize(f"{stem}.idx")
        joined = r"\d*" if corpus.subset == "train" else ""  # a training joins train1, train2, …
        own = re.compile(re.escape(corpus.subset) + joined)
        for subset, _, path in binarised_files(corpus):
            if not own.fullmatch(subset):
                _link(path, part / path.name)
        for path in part.iterdir():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(part)
        os.replace(part, folder)
    sync_folder(folder.parent)


def binarised_files(corpus: CorpusPlace) -> Iterator[tuple[str, str, Path]]:
    """Yield the files of all subsets of a corpus's folder: subset, language, path."""
    a, b = re.escape(corpus.source), re.escape(corpus.target)
    pattern = re.compile(rf"(.+)\.(?:{a}-{b}|{b}-{a})\.({a}|{b})\.(?:bin|idx)")
    for path in sorted(Path(corpus.folder).iterdir()):
        match = pattern.fullmatch(path.name)
        if match:
            yield match[1], match[2], path


def _link(path: Path, target: Path) -> None:
    """Link a file, or copy it where the file system has no links (or it is another one)."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)
