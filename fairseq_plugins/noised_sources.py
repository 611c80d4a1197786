"""A training set of text whose sources get noise, for the student alone or its teachers as well."""

from typing import Any

import torch
from fairseq.data import BaseWrapperDataset, Dictionary

from seqdistill.errors import InputError
from seqdistill.teachers.source_noise import SourceNoise

#: What teachers may read in training: the student's noised source, or the clean one.
TEACHER_SOURCES = ("augmented", "clean")


class NoisedSources(BaseWrapperDataset):
    """A set of sentence pairs, its sources noised by seed, epoch and sentence alone.

    A batch is fairseq's; with clean sources for the teachers it has ``teacher_net_input`` as well.

    Args:
        dataset: fairseq's set of pairs.
        noise: of the sources.
        with_clean: give the teachers the sources as they are.
    """

    def __init__(self, dataset: Any, noise: SourceNoise, *, with_clean: bool) -> None:
        super().__init__(dataset)
        self.noise = noise
        self.with_clean = with_clean
        # Loader processes live for a whole training, and read the epoch from here.
        self._epoch = torch.ones((), dtype=torch.long)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch's noise is wanted."""
        super().set_epoch(epoch)
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a pair with a noised source."""
        item = dict(self.dataset[index])
        item["clean_source"] = item["source"]
        item["source"] = self.noise(item["source"], int(self._epoch), int(index))
        return item

    def collater(self, samples: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        """Return fairseq's batch, with the teachers' input where it is another."""
        sample: dict[str, Any] = self.dataset.collater(samples, **kwargs)
        if not samples or not self.with_clean:
            return sample
        clean = self.dataset.collater(
            [{**item, "source": item["clean_source"]} for item in samples], **kwargs
        )
        # Each batch is sorted by the lengths of its own sources.
        places = {int(number): row for row, number in enumerate(clean["id"])}
        order = torch.tensor([places[int(number)] for number in sample["id"]])
        sources = {name: clean["net_input"][name][order] for name in ("src_tokens", "src_lengths")}
        sample["teacher_net_input"] = {**sample["net_input"], **sources}
        return sample


def noise_of(cfg: Any, dictionary: Dictionary) -> SourceNoise | None:
    """Return the noise of ``--source-dropout`` and ``--source-replacement``, None without any.

    Pieces are replaced by ones drawn as often as they occur, by the dictionary's counts.

    Raises:
        InputError: a chance is impossible, or noise goes with stored targets of clean sources.
    """
    if not cfg.source_dropout and not cfg.source_replacement:
        if str(cfg.teacher_source) != "augmented":
            raise InputError(
                "--teacher-source clean is of noised sources; give --source-dropout or "
                "--source-replacement, or leave it away"
            )
        return None
    if cfg.target_store and str(cfg.teacher_source) == "augmented":
        raise InputError(
            "--source-dropout and --source-replacement change the sources in every epoch, and the "
            "targets in --target-store are of the sources as they are; train with "
            "--ensemble-paths, or let the student alone read noise (--teacher-source clean)"
        )
    pieces = range(dictionary.nspecial, len(dictionary))
    counts = [max(0, dictionary.count[piece]) for piece in pieces]
    return SourceNoise(
        cfg.source_dropout,
        cfg.source_replacement,
        cfg.source_noise_seed,
        pieces,
        counts if any(counts) else [1] * len(counts),
        (dictionary.bos(), dictionary.pad(), dictionary.eos()),
    )
