"""A training set of text whose sources get noise, for the student alone or its teachers as well."""

from dataclasses import replace
from typing import Any

import torch
from fairseq.data import BaseWrapperDataset, Dictionary

from seqdistill.errors import InputError
from seqdistill.teachers.source_noise import SourceNoise

#: What teachers may read in training: the student's noised source, one with a share of that noise,
#: or the clean one.
TEACHER_SOURCES = ("augmented", "weak", "clean")


class NoisedSources(BaseWrapperDataset):
    """A set of sentence pairs, its sources noised by seed, epoch and sentence alone.

    A batch is fairseq's; where teachers read others it has ``teacher_net_input`` as well.

    Args:
        dataset: fairseq's set of pairs.
        noise: of the sources.
        for_teachers: the noise of what teachers read; None where that is what the student reads.
    """

    def __init__(
        self, dataset: Any, noise: SourceNoise, for_teachers: SourceNoise | None = None
    ) -> None:
        super().__init__(dataset)
        self.noise = noise
        self.for_teachers = for_teachers
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
        given, epoch = item["source"], int(self._epoch)
        if self.for_teachers is not None:
            item["teacher_source"] = self.for_teachers(given, epoch, int(index))
        item["source"] = self.noise(given, epoch, int(index))
        return item

    def collater(self, samples: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        """Return fairseq's batch, with the teachers' input where it is another."""
        sample: dict[str, Any] = self.dataset.collater(samples, **kwargs)
        if not samples or self.for_teachers is None:
            return sample
        other = self.dataset.collater(
            [{**item, "source": item["teacher_source"]} for item in samples], **kwargs
        )
        # Each batch is sorted by the lengths of its own sources.
        places = {int(number): row for row, number in enumerate(other["id"])}
        order = torch.tensor([places[int(number)] for number in sample["id"]])
        sources = {name: other["net_input"][name][order] for name in ("src_tokens", "src_lengths")}
        sample["teacher_net_input"] = {**sample["net_input"], **sources}
        return sample


def noise_of(cfg: Any, dictionary: Dictionary) -> tuple[SourceNoise | None, SourceNoise | None]:
    """Return the noise of ``--source-dropout`` and ``--source-replacement``, None without any.

    Pieces are replaced by ones drawn as often as they occur, by the dictionary's counts.

    Returns:
        The student's, and the teachers' where theirs is another: none of it (``clean``), or a share
        of it (``weak``), which spares pieces that the student's does not, and touches no other.

    Raises:
        InputError: a chance is impossible, or noise goes with stored targets of clean sources.
    """
    kind = str(cfg.teacher_source)
    if not cfg.source_dropout and not cfg.source_replacement:
        if kind != "augmented":
            raise InputError(
                f"--teacher-source {kind} is of noised sources; give --source-dropout or "
                "--source-replacement, or leave it away"
            )
        return None, None
    if not 0.0 <= cfg.weak_noise < 1.0:
        raise InputError(f"--weak-noise: expected a share in [0, 1), got {cfg.weak_noise}")
    if cfg.target_store and kind != "clean":
        raise InputError(
            "--source-dropout and --source-replacement change the sources in every epoch, and the "
            "targets in --target-store are of the sources as they are; train with "
            "--ensemble-paths, or let the student alone read noise (--teacher-source clean)"
        )
    pieces = range(dictionary.nspecial, len(dictionary))
    counts = [max(0, dictionary.count[piece]) for piece in pieces]
    noise = SourceNoise(
        cfg.source_dropout,
        cfg.source_replacement,
        cfg.source_noise_seed,
        pieces,
        counts if any(counts) else [1] * len(counts),
        (dictionary.bos(), dictionary.pad(), dictionary.eos()),
    )
    if kind == "augmented":
        return noise, None
    share = cfg.weak_noise if kind == "weak" else 0.0
    return noise, replace(noise, drop=share * noise.drop, replace=share * noise.replace)
