"""How many tokens (or sentences) an update has, over all its batches and ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed

from seqdistill.errors import InputError


class GlobalSampleSize:
    """The sample size of the coming update, known before its first backward.

    fairseq divides gradients by it after the last backward; the engine has no place for that
    which all its optimizers share, so the losses are divided before.

    Args:
        by_sentences: count sentences (``--sentence-avg``), else target tokens.
        group: the data-parallel processes.

    Attributes:
        total: N, of all batches and ranks; at least 1.
        reported: what fairseq will add up from the criterion's reports: it forgets all batches
            of a rank whose last one is a filler.
    """

    def __init__(self, by_sentences: bool, group: Any) -> None:
        self.by_sentences = by_sentences
        self.group = group
        self.total = 1.0
        self.reported = 0.0

    def count(self, samples: Sequence[Any], device: torch.device) -> None:
        """Count an update's batches on all ranks; a collective of two numbers.

        Args:
            samples: this rank's batches; an empty one is a filler.
            device: where the collective runs.

        Raises:
            InputError: batches of this task cannot be counted.
        """
        sizes = [self._size(sample) if sample else 0.0 for sample in samples]
        reported = sum(sizes) if samples[-1] else 0.0
        counts = torch.tensor([sum(sizes), reported], dtype=torch.float64, device=device)
        if distributed.is_initialized() and distributed.get_world_size(self.group) > 1:
            distributed.all_reduce(counts, group=self.group)
        total, self.reported = counts.tolist()
        self.total = total or 1.0

    def _size(self, sample: dict[str, Any]) -> float:
        try:
            return float(len(sample["target"]) if self.by_sentences else sample["ntokens"])
        except KeyError as error:
            raise InputError(
                f"--deepspeed: this task's batches have no {error}, which the loss is divided by; "
                "tasks of translation and of speech have it"
            ) from error
