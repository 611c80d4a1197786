"""``--lr-scheduler cyclical``: the cycles of cyclical SGLD, each with a sample at its end."""

import logging
from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from seqdistill.errors import InputError
from seqdistill.teachers.cheap.langevin import cycle_at

logger = logging.getLogger(__name__)


@dataclass
class CyclicalConfig(FairseqDataclass):
    """Options of the schedule."""

    cycle_updates: int = field(
        default=0, metadata={"help": "C: updates of a cycle; the weights at its end are a sample"}
    )
    exploration: float = field(
        default=0.8,
        metadata={"help": "β: share of a cycle, at its beginning, in which sgld adds no noise"},
    )
    lr: list[float] = II("optimization.lr")  # noqa: RUF009 (a string)
    save_interval_updates: int = II("checkpoint.save_interval_updates")
    no_save: bool = II("checkpoint.no_save")
    no_epoch_checkpoints: bool = II("checkpoint.no_epoch_checkpoints")


@register_lr_scheduler("cyclical", dataclass=CyclicalConfig)
class CyclicalSchedule(FairseqLRScheduler):
    """A cosine from ``--lr`` to 0 in every cycle (Zhang et al. 2020).

    Args:
        cfg: the options.
        optimizer: any; that of ``--optimizer sgld`` adds noise at the end of each cycle.

    Raises:
        InputError: cycles whose ends would not be saved, or an option out of its range.
    """

    def __init__(self, cfg: Any, optimizer: Any) -> None:
        super().__init__(cfg, optimizer)
        if len(cfg.lr) > 1:
            raise InputError(f"--lr-scheduler cyclical: expected one --lr, got {list(cfg.lr)}")
        cycle, save = int(cfg.cycle_updates), int(cfg.save_interval_updates)
        if cycle < 1:
            raise InputError("--lr-scheduler cyclical needs --cycle-updates, at least 1")
        if not cfg.no_save and (save < 1 or cycle % save):
            raise InputError(
                f"--cycle-updates {cycle}: the samples are the weights at the end of each cycle, "
                f"and --save-interval-updates {save} does not save them; give "
                f"--save-interval-updates {cycle}"
            )
        self._updates = 0
        self._sample_at: int | None = None
        self.step_update(0)

    def step(self, epoch: int, val_loss: float | None = None) -> None:
        """Say where the sample is if a cycle has ended with an epoch.

        fairseq names what it saves there after the epoch alone.
        """
        super().step(epoch, val_loss)
        if self._sample_at is None or self.cfg.no_save:
            return
        where = f"the sample of update {self._sample_at} fell on the end of epoch {epoch}"
        if self.cfg.no_epoch_checkpoints:
            logger.warning(
                f"{where}, and --no-epoch-checkpoints does not save it; choose a --cycle-updates "
                "that does not end with an epoch"
            )
        else:
            logger.info(f"{where}: it is checkpoint{epoch}.pt")

    def step_update(self, num_updates: int) -> float:
        """Set the learning rate of the next update, and whether it explores."""
        rate, explores, ended = cycle_at(
            num_updates, int(self.cfg.cycle_updates), self.cfg.lr[0], self.cfg.exploration
        )
        for group in self.optimizer.param_groups:
            group["explores"] = explores
        if num_updates != self._updates:
            # A training that goes on jumps to its updates: their sample was told of before.
            is_new = ended and num_updates == self._updates + 1
            self._sample_at = num_updates if is_new else None
            self._updates = num_updates
            if is_new:
                cycle = num_updates // int(self.cfg.cycle_updates)
                logger.info(f"cycle {cycle} has ended: a sample at update {num_updates}")
        self.optimizer.set_lr(rate)
        return float(rate)
