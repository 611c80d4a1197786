"""``seqdistill generate-sources``: from options to a data folder with drawn sentences."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary

from fairseq_plugins.generation.translator import segmenter_of
from fairseq_plugins.source_drawing.model import Draws, SentenceModel
from fairseq_plugins.source_drawing.sieve import Known, Sieve
from fairseq_plugins.target_cache.corpus import CorpusPlace
from fairseq_plugins.target_cache.folders import write_folder
from fairseq_plugins.target_cache.options import Progress
from seqdistill.errors import InputError
from seqdistill.files import (
    LOCK,
    PART,
    atomic_write,
    json_to_bytes,
    locked,
    read_json,
    remove_parts,
    sha256_of_file,
    write_whole,
)
from seqdistill.records import describe_environment, differences
from seqdistill.targets.store import DictionaryPrint, TeacherPrint
from seqdistill.targets.store.files import Array, MappedTensors, tensors_to_bytes

#: In the output folder: what is drawn, the draws of a command that has not ended, the data folder
#: with the sentences, the sentences to look at, and the counts.
PLAN, DRAWS, DATA, TEXT, MANIFEST = "plan.json", "draws", "data", "sentences.txt", "manifest.json"
_OWN = (PLAN, DRAWS, DATA, f"{DATA}{PART}", TEXT, f"{TEXT}{PART}", MANIFEST, LOCK)


@dataclass(frozen=True)
class DrawOptions:
    """What is to be drawn, and where it goes.

    Attributes:
        data: fairseq's data folder, of translation.
        path: of the language model.
        output: folder for the sentences.
        count: of new sentences.
        source: language; None: inferred from the folder.
        target: language; likewise.
        name: of the new subset.
        draws: how pieces are drawn.
        most: draws after which it is given up; None: 20 for each sentence.
        sentencepiece_model: that cut the data; None: draws stay in the pieces they were drawn in.
        use_cpu: even where there is a GPU.
        overwrite: begin a folder anew.
        command: to note in the folder.
    """

    data: str
    path: str
    output: str
    count: int
    source: str | None = None
    target: str | None = None
    name: str = "generated"
    draws: Draws = field(default_factory=Draws)
    most: int | None = None
    sentencepiece_model: str | None = None
    use_cpu: bool = False
    overwrite: bool = False
    command: tuple[str, ...] | None = None


class Drawing:
    """The drawing of one set; :meth:`survey` looks, :meth:`run` does it.

    Args:
        options: what and where.

    Raises:
        InputError: options, data or model are unusable.
    """

    def __init__(self, options: DrawOptions) -> None:
        options.draws.check()
        self.options = options
        self.folder = Path(options.output)
        _refuse_foreign(self.folder)
        corpus = CorpusPlace.find(options.data, options.source, options.target, options.name)
        if not options.name.isidentifier():
            raise InputError(f"--name: expected letters, digits and _, got {options.name!r}")
        self.corpus = corpus
        self.dictionary = _dictionary(corpus)
        self._model = SentenceModel(
            options.path, self.dictionary, options.draws, use_cpu=options.use_cpu
        )
        self._known = Known(corpus, self.dictionary)
        if options.name in self._known.prints:
            raise InputError(f"{corpus.folder} has a subset {options.name}; give another --name")
        if not self._known.prints:
            raise InputError(
                f"{corpus.folder} has no text in {corpus.source}; give the folder that "
                "fairseq-preprocess made, and its languages (-s, -t)"
            )
        model = options.sentencepiece_model
        if model is not None and not Path(model).is_file():
            raise InputError(f"{model}: no such sentencepiece model")
        self._segmenter = segmenter_of(model)
        self._most = 20 * options.count if options.most is None else options.most

    def survey(self) -> dict[str, Any]:
        """Return what would be done, as JSON keeps it; nothing is written."""
        return {
            "output": str(self.folder),
            "data": self.corpus.folder,
            "languages": [self.corpus.source, self.corpus.target],
            "subset": self.corpus.subset,
            "vocabulary": len(self.dictionary),
            "sentences": self.options.count,
            "longest": self._model.longest,
            "draws_at_most": self._most,
            "left_out_if_in": list(self._known.prints),
        }

    def run(self, progress: Progress) -> dict[str, Any]:
        """Draw the sentences, or go on with it; returns the manifest.

        Args:
            progress: shows how far it is.

        Raises:
            InputError: the folder holds something else, or too few new sentences were drawn.
        """
        with locked(self.folder):
            if self.options.overwrite:
                _clear(self.folder)
            self._begin()
            if (self.folder / MANIFEST).exists():
                manifest: dict[str, Any] = read_json(self.folder / MANIFEST)
                return manifest
            sieve = Sieve(self._known, self.dictionary, self._model.longest, self._segmenter)
            count = self.options.count
            progress("sentences", 0, count, self._steps(sieve))
            return self._finish(sieve)

    def _begin(self) -> None:
        """Check or write what is drawn."""
        options = self.options
        cutter = options.sentencepiece_model
        plan = {
            "model": asdict(TeacherPrint.of(options.path)),
            "dictionary": asdict(DictionaryPrint.of(self.dictionary.symbols)),
            "data": {name: asdict(one) for name, one in self._known.prints.items()},
            "draws": asdict(options.draws),
            "sentences": options.count,
            "subset": options.name,
            "sentencepiece model": None if cutter is None else sha256_of_file(Path(cutter)),
        }
        plan = json.loads(json.dumps(plan))
        if not (self.folder / PLAN).exists():
            write_whole(self.folder / PLAN, json_to_bytes(plan))
        lines = differences(read_json(self.folder / PLAN), plan, holder="the folder")
        if lines:
            raise InputError(
                f"{self.folder} holds draws of something else:\n  "
                + "\n  ".join(lines)
                + "\ngive what it was begun with, or another folder, or begin it anew (--overwrite)"
            )
        (self.folder / DRAWS).mkdir(exist_ok=True)
        remove_parts(self.folder / DRAWS)

    def _steps(self, sieve: Sieve) -> Iterator[int]:
        """Draw chunk by chunk until there are enough; yields how many are new."""
        chunk, count = 0, self.options.count
        while len(sieve.kept) < count:
            if sieve.drawn >= self._most:
                raise InputError(
                    f"{len(sieve.kept)} new sentences in {sieve.drawn} draws, and {count} are "
                    f"wanted ({_counts(sieve.left_out)} left out); ask for fewer (--count), draw "
                    "more freely (--temperature, --top-k, --top-p) or longer (--max-draws)"
                )
            for kept in sieve.add(self._chunk(chunk)):
                yield kept
                if len(sieve.kept) == count:  # the rest of the chunk is as if it were not drawn
                    return
            chunk += 1

    def _chunk(self, chunk: int) -> list[Array]:
        """Return the draws of a chunk, from its file if it has been drawn before."""
        path = self.folder / DRAWS / f"{chunk:06d}.safetensors"
        if path.exists():
            arrays = MappedTensors(path).arrays
            return np.split(arrays["ids"].astype(np.int64), arrays["offsets"][1:-1])
        draws = self._model.draw(chunk)
        made: dict[str, Array] = {
            "ids": np.concatenate(draws).astype(np.uint32),
            "offsets": np.cumsum([0, *map(len, draws)], dtype=np.int64),
        }
        write_whole(path, tensors_to_bytes(made, {}))
        return draws

    def _finish(self, sieve: Sieve) -> dict[str, Any]:
        sentences = [torch.from_numpy(ids.astype(np.int64)) for ids in sieve.kept]
        shutil.rmtree(self.folder / DATA, ignore_errors=True)
        sides = {self.corpus.source: (self.dictionary, sentences)}
        write_folder(self.folder / DATA, self.corpus, sides)
        with atomic_write(self.folder / TEXT) as handle:
            # Not Dictionary.string, which would leave out pieces that look like special symbols.
            for ids in sieve.kept:
                handle.write(" ".join(self.dictionary[i] for i in ids[:-1].tolist()) + "\n")
        manifest = {
            "subset": self.corpus.subset,
            "sentences": len(sentences),
            "tokens": sum(map(len, sentences)),
            "drawn": sieve.drawn,
            "left_out": dict(sorted(sieve.left_out.items())),
            "cut_again": sieve.recut,
            "environment": describe_environment(self.options.command),
        }
        write_whole(self.folder / MANIFEST, json_to_bytes(manifest))
        shutil.rmtree(self.folder / DRAWS)
        return manifest


def _dictionary(corpus: CorpusPlace) -> Dictionary:
    path = Path(corpus.folder) / f"dict.{corpus.source}.txt"
    if not path.is_file():
        raise InputError(
            f"{path}: no such dictionary; give the folder that fairseq-preprocess made, and its "
            "languages (-s, -t)"
        )
    return Dictionary.load(str(path))


def _counts(left_out: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(left_out.items())) or "none"


def _refuse_foreign(folder: Path) -> None:
    """Raise an :class:`InputError` if a folder holds anything that this verb does not write."""
    if not folder.is_dir():
        return
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in _OWN)
    if strangers or not ((folder / PLAN).exists() or _is_empty(folder)):
        found = strangers[0] if strangers else f"no {PLAN}"
        raise InputError(
            f"{folder} is not empty ({found}) and no folder of drawn sentences; choose another"
        )


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing, or folders with nothing that a runner made for what is to come."""
    others = [path for path in folder.iterdir() if path.name != LOCK]
    return all(path.is_dir() and not any(path.iterdir()) for path in others)


def _clear(folder: Path) -> None:
    """Remove what is in a folder; nobody else's, as has been seen to."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
