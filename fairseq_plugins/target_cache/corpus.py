"""A binarised corpus: its fairseq dataset, its fingerprint, and batches of its sentences."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.data import FairseqDataset, LanguagePairDataset, data_utils
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from seqdistill.errors import InputError
from seqdistill.targets.store.files import Array
from seqdistill.targets.store.fingerprint import DataPrint, SideHasher, SidePrint
from seqdistill.workers import worker_number

logger = logging.getLogger(__name__)

# Tokens of a data file that are hashed at a time.
_BLOCK = 1 << 22
# Entries of one (tokens, V) array of a batch. On the CPU arrays of 16 MB are the fastest (of 64 MB,
# a third of the time went into getting memory).
_ENTRIES_ON_CPU = 1 << 22
_ENTRIES_ON_GPU = 1 << 26
# And no more tokens than this: there is nothing left to gain.
_MOST_TOKENS = 4096


@dataclass(frozen=True)
class CorpusPlace:
    """Where a corpus lies.

    Attributes:
        folder: fairseq's data folder.
        source: language.
        target: language.
        subset: of the folder, ``train``.
    """

    folder: str
    source: str
    target: str
    subset: str

    @classmethod
    def find(
        cls, folder: str, source: str | None, target: str | None, subset: str
    ) -> "CorpusPlace":
        """Return the place; languages that are not given are inferred from the folder's files.

        Raises:
            InputError: there is no such folder, or its languages are not clear.
        """
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder; give one that fairseq-preprocess made")
        if source is None or target is None:
            found_source, found_target = data_utils.infer_language_pair(folder)
            source, target = source or found_source, target or found_target
        if source is None or target is None:
            raise InputError(f"{folder}: its languages are not clear; give -s and -t")
        return cls(folder, source, target, subset)

    def load(self) -> tuple[TranslationTask, LanguagePairDataset]:
        """Return a task and the corpus as a training would see it.

        Raises:
            InputError: the folder lacks something.
        """
        for language in (self.source, self.target):
            stem = f"{self.subset}.{self.source}-{self.target}.{language}"
            path = Path(self.folder) / f"{stem}.bin"
            if path.is_file() and path.stat().st_size == 0:  # fairseq fails on mapping it
                raise InputError(f"{path}: the subset {self.subset} has no sentences")
        config = TranslationConfig(
            data=self.folder,
            source_lang=self.source,
            target_lang=self.target,
            dataset_impl=None,
            required_seq_len_multiple=1,
        )
        try:
            task = TranslationTask.setup_task(config)
            # A training joins train, train1, train2 …; no other subset is joined.
            task.load_dataset(self.subset, combine=self.subset == "train")
        except FileNotFoundError as error:
            raise InputError(
                f"{self.folder}: {error}; give the folder that fairseq-preprocess made, its "
                "languages (-s, -t) and one of its subsets (--subset)"
            ) from error
        return task, task.datasets[self.subset]


def sentence_ids(dataset: LanguagePairDataset, index: int) -> tuple[Array, Array]:
    """Return the token ids of both sides of a sentence, as models get them.

    Raises:
        InputError: the corpus has no target side.
    """
    item = dataset[index]
    if item["target"] is None:
        raise InputError("the data have no target side; preprocess them with both languages")
    return item["source"].numpy(), item["target"].numpy()


def data_print(dataset: LanguagePairDataset, *, without_target: bool = False) -> DataPrint:
    """Return the fingerprint of a corpus: the token ids of both sides of each sentence.

    Args:
        dataset: the corpus.
        without_target: a corpus of sources alone is one, too; its other side has no sentences.

    Raises:
        InputError: the corpus has no target side and needs one.
    """
    if dataset.tgt is None and without_target:
        sources = SideHasher()
        for index in range(len(dataset)):
            ids = dataset[index]["source"].numpy()
            sources.add(ids, [len(ids)])
        return DataPrint(len(dataset), sources.result(), SideHasher().result())
    changes = (dataset.append_bos, dataset.append_eos_to_target, dataset.remove_eos_from_source)
    sides = (dataset.src, dataset.tgt)
    if not any(changes) and all(type(side) is MMapIndexedDataset for side in sides):
        source, target = (_print_of_file(side) for side in sides)
        return DataPrint(len(dataset), source, target)
    hashers = SideHasher(), SideHasher()
    for index in range(len(dataset)):
        for hasher, ids in zip(hashers, sentence_ids(dataset, index), strict=True):
            hasher.add(ids, [len(ids)])
    return DataPrint(len(dataset), hashers[0].result(), hashers[1].result())


def _print_of_file(side: MMapIndexedDataset) -> SidePrint:
    """Return the same of a side whose sentences lie in their order in one file, in a blink."""
    ids = np.frombuffer(side._bin_buffer, side._index.dtype)
    hasher = SideHasher()
    hasher.add(ids[:0], side.sizes)
    for begin in range(0, len(ids), _BLOCK):
        hasher.add(ids[begin : begin + _BLOCK], [])
    return hasher.result()


def fits(source_length: int, target_length: int, limits: Sequence[tuple[int, int]]) -> bool:
    """Return whether all models can read a sentence; ``limits`` are their ``max_positions()``."""
    return all(source_length <= s and target_length <= t for s, t in limits)


def fitting_tokens(V: int, use_cuda: bool) -> int:
    """Return how many tokens a batch may have where it becomes arrays (tokens, V)."""
    return min(_MOST_TOKENS, max(1, (_ENTRIES_ON_GPU if use_cuda else _ENTRIES_ON_CPU) // V))


def make_batches(
    dataset: FairseqDataset, sentences: Sequence[int], max_tokens: int
) -> list[list[int]]:
    """Return batches of sentences of like lengths, the same whenever it is asked for the same.

    Args:
        dataset: of the sentences.
        sentences: their numbers.
        max_tokens: of the longer side of a batch, padding counted; a longer sentence is alone.
    """
    sizes = {s: dataset.size(s) for s in sentences}  # (source, target)
    longer = {s: max(size) for s, size in sizes.items()}
    batches: list[list[int]] = []
    for sentence in sorted(sentences, key=lambda s: (longer[s], sizes[s][0], s)):
        if not batches or (len(batches[-1]) + 1) * longer[sentence] > max_tokens:
            batches.append([])
        batches[-1].append(sentence)
    return batches


def collate(dataset: FairseqDataset, batch: Sequence[int], use_cuda: bool) -> dict[str, Any]:
    """Return fairseq's batch of sentences; ``id`` says in which order they are."""
    sample: dict[str, Any] = dataset.collater([dataset[index] for index in batch])
    return utils.move_to_cuda(sample) if use_cuda else sample


def take_gpu(use_cpu: bool) -> bool:
    """Choose this worker's GPU, in turn of those there are; returns whether there is one."""
    if not has_cuda(use_cpu):
        return False
    torch.cuda.set_device(gpu_of(worker_number(), torch.cuda.device_count()))
    return True


def gpu_of(worker: int, gpus: int) -> int:
    """Return the GPU of a worker: one each, and from the first again when there are more workers.

    Example:
        >>> [gpu_of(worker, gpus=2) for worker in range(4)]
        [0, 1, 0, 1]
    """
    return worker % gpus


def has_cuda(use_cpu: bool) -> bool:
    """Return whether to use a GPU."""
    return torch.cuda.is_available() and not use_cpu
