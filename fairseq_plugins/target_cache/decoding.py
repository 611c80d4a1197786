"""The ensemble's own outputs: beam search over a corpus's sources, a chunk of sentences a file.

The outputs become a data folder like those of fairseq-preprocess. Students train on it, and the
store is made of it, so nothing that follows needs to know where the targets came from.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import LanguagePairDataset
from fairseq.dataclass.configs import GenerationConfig
from fairseq.sequence_generator import SequenceGenerator

from fairseq_plugins.target_cache.corpus import (
    CorpusPlace,
    collate,
    make_batches,
    take_gpu,
)
from fairseq_plugins.target_cache.folders import write_folder
from fairseq_plugins.target_cache.making import TeacherPlace
from fairseq_plugins.teachers import TeacherEnsemble, translation_loader
from seqdistill.errors import InputError
from seqdistill.files import (
    json_to_bytes,
    read_json,
    remove_parts,
    write_whole,
)
from seqdistill.records import differences
from seqdistill.targets.store.files import Array, MappedTensors, tensors_to_bytes

#: Sentences of a chunk: what a killed run has to decode again.
CHUNK = 256
DECODING = "decoding"
DATA = "data"
_PLAN = "plan.json"


@dataclass(frozen=True)
class Search:
    """How outputs are found: beam search, or drawn.

    Attributes:
        beam: its size; of no meaning where outputs are drawn.
        max_len_a: outputs have at most ``max_len_a`` · source length + ``max_len_b`` pieces, of the
            longest source decoded together.
        max_len_b: see above.
        outputs: of each source: the best, or so many draws, which may be equal.
        sampling: draw every piece from the members' mean distribution instead of searching.
        seed: of the draws.
    """

    beam: int = 5
    max_len_a: float = 1.2
    max_len_b: int = 10
    outputs: int = 1
    sampling: bool = False
    seed: int = 0

    def check(self) -> None:
        """Check that the numbers go together.

        Raises:
            InputError: they do not.
        """
        if self.outputs < 1 or (not self.sampling and self.outputs > self.beam):
            raise InputError(
                f"--outputs: expected 1 to {self.beam}, the size of the beam, got {self.outputs}; "
                "give a larger --beam, or --sampling"
            )

    def described(self) -> dict[str, Any]:
        """Return what outputs depend on; of one best output as stores had it before others were."""
        fields = asdict(self)
        if not self.sampling:
            fields = {k: v for k, v in fields.items() if k not in ("sampling", "seed")}
        return {k: v for k, v in fields.items() if (k, v) != ("outputs", 1)}

    def settings(self) -> GenerationConfig:
        """Return fairseq's options: as many hypotheses as its beam has room for."""
        width = self.outputs if self.sampling else self.beam
        return GenerationConfig(
            beam=width,
            nbest=self.outputs,
            max_len_a=self.max_len_a,
            max_len_b=self.max_len_b,
            sampling=self.sampling,
        )


@dataclass(frozen=True)
class DecodingWork:
    """Chunks of sentences to decode.

    Attributes:
        folder: of the chunks' files.
        corpus: whose sources are decoded.
        teachers: who decode them, together.
        search: how.
        max_tokens: sources of a batch have at most this many tokens, times the beam.
    """

    folder: Path
    corpus: CorpusPlace
    teachers: TeacherPlace
    search: Search
    max_tokens: int

    def prepare(self) -> Callable[[int], Iterator[int]]:
        """Load corpus and teachers; return what decodes a chunk and tells how far it is."""
        task, dataset = self.corpus.load()
        ensemble = TeacherEnsemble(
            self.teachers.paths,
            translation_loader(task.source_dictionary, task.target_dictionary),
            self.teachers.dtype,
        )
        models: list[Any] = list(ensemble.models)
        longest = min(model.max_positions()[0] for model in models)
        use_cuda = take_gpu(self.teachers.use_cpu)
        if use_cuda:
            for model in models:
                model.cuda()
        settings = self.search.settings()
        # fairseq's own generator: nobody asks these hypotheses for their uncertainty.
        generator = task.build_generator(models, settings, seq_gen_cls=SequenceGenerator)
        max_tokens = max(1, self.max_tokens // settings.beam)
        wanted = self.search.outputs

        def decode(chunk: int) -> Iterator[int]:
            sentences = chunk_sentences(chunk, len(dataset))
            outputs: dict[int, list[Array]] = {}
            if self.search.sampling:  # a chunk's draws do not depend on who makes it, and when
                # torch on the CPU has 32 bits of seed: both numbers are mixed into them.
                mixed = np.random.SeedSequence([self.search.seed, chunk]).generate_state(1)
                torch.manual_seed(int(mixed[0]))
            for sentence in sentences:
                if dataset.src_sizes[sentence] > longest:
                    raise InputError(
                        f"sentence {sentence} has {dataset.src_sizes[sentence]} source pieces, and "
                        f"the teachers read at most {longest}; leave it out of the data"
                    )
            for batch in make_batches(dataset, sentences, max_tokens):
                sample = collate(dataset, batch, use_cuda)
                found = generator.generate(models, sample)
                for sentence, hypotheses in zip(sample["id"].tolist(), found, strict=True):
                    if len(hypotheses) < wanted:
                        raise InputError(
                            f"sentence {sentence}: expected {wanted} outputs, the search found "
                            f"{len(hypotheses)}; give a larger --max-len-b or fewer --outputs"
                        )
                    outputs[sentence] = [one["tokens"].cpu().numpy() for one in hypotheses[:wanted]]
                yield len(batch)
            ordered = [output for sentence in sentences for output in outputs[sentence]]
            arrays: dict[str, Array] = {
                "ids": np.concatenate(ordered).astype(np.uint32),
                "offsets": np.cumsum([0, *map(len, ordered)], dtype=np.int64),
            }
            write_whole(chunk_path(self.folder, chunk), tensors_to_bytes(arrays, {}))

        return decode


def chunk_sentences(chunk: int, sentences: int) -> range:
    """Return the sentences of a chunk."""
    return range(chunk * CHUNK, min((chunk + 1) * CHUNK, sentences))


def chunk_path(folder: Path, chunk: int) -> Path:
    """Return the file of a chunk."""
    return folder / f"{chunk:05d}.safetensors"


def begin_decoding(store: Path, plan: dict[str, Any], sentences: int) -> list[int]:
    """Check or write what is decoded and how; return the chunks that are yet to be decoded.

    Args:
        store: the store's folder, locked.
        plan: everything that the outputs depend on, as JSON keeps it.
        sentences: of the corpus.

    Raises:
        InputError: the folder holds outputs of something else (what differs is named).
    """
    plan = json.loads(json.dumps(plan))
    folder = store / DECODING
    folder.mkdir(exist_ok=True)
    remove_parts(folder)
    if (folder / _PLAN).exists():
        lines = differences(read_json(folder / _PLAN), plan)
        if lines:
            raise InputError(
                f"{store} holds outputs of something else:\n  "
                + "\n  ".join(lines)
                + "\ngive what it was begun with, or another folder, or begin it anew (--overwrite)"
            )
    elif (store / DATA).exists():
        raise InputError(
            f"{store / DATA} exists, and nothing says what it is of ({DECODING}/{_PLAN} is "
            "missing); choose another folder, or begin it anew (--overwrite)"
        )
    else:
        write_whole(folder / _PLAN, json_to_bytes(plan))
    if (store / DATA).is_dir():
        return []
    chunks = range(-(-sentences // CHUNK))
    return [chunk for chunk in chunks if not chunk_path(folder, chunk).exists()]


def write_data(
    store: Path,
    corpus: CorpusPlace,
    dataset: LanguagePairDataset,
    *,
    with_references: bool,
    outputs: int = 1,
) -> None:
    """Make the data folder of the outputs, whole or not at all; chunks are removed afterwards.

    Args:
        store: the store's folder; all chunks are decoded.
        corpus: what was decoded; its other subsets are linked, its dictionaries copied.
        dataset: of the corpus.
        with_references: put the corpus itself before the outputs.
        outputs: of each source; they come one after the other.
    """
    decoded = _outputs(store / DECODING, len(dataset))
    items = [dataset[index] for index in range(len(dataset))] if with_references else []
    sources = [item["source"] for item in items]
    sources += [
        source for index in range(len(dataset)) for source in [dataset[index]["source"]] * outputs
    ]
    targets = [item["target"] for item in items] + decoded
    sides = {
        corpus.source: (dataset.src_dict, sources),
        corpus.target: (dataset.tgt_dict, targets),
    }
    write_folder(store / DATA, corpus, sides)
    for path in (store / DECODING).glob("*.safetensors"):
        path.unlink()


def _outputs(folder: Path, sentences: int) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for chunk in range(-(-sentences // CHUNK)):
        arrays = MappedTensors(chunk_path(folder, chunk)).arrays
        ids = torch.from_numpy(arrays["ids"].astype(np.int64))
        found += torch.split(ids, np.diff(arrays["offsets"]).tolist())
    return found
