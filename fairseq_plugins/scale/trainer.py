"""fairseq's Trainer with DeepSpeed's engine as its model and optimizer.

Nothing of fairseq's loop is repeated: its ``train_step`` sends everything that differs through the
optimizer object (:class:`~fairseq_plugins.scale.optimizer.DeepSpeedOptimizer`).
"""

import contextlib
import logging
from pathlib import Path
from typing import Any

from fairseq import utils
from fairseq.logging import metrics
from fairseq.optim import lr_scheduler
from fairseq.trainer import Trainer

from fairseq_plugins.scale.configuration import EngineConfiguration
from fairseq_plugins.scale.engine import build_engine
from fairseq_plugins.scale.optimizer import DeepSpeedOptimizer, SkippedUpdate
from fairseq_plugins.scale.resuming import resume
from fairseq_plugins.scale.saving import Saver
from fairseq_plugins.scale.sizes import GlobalSampleSize
from seqdistill.errors import InputError

logger = logging.getLogger(__name__)


class DeepSpeedTrainer(Trainer):
    """fairseq's Trainer on DeepSpeed's engine.

    Args:
        cfg: fairseq's configuration.
        task: fairseq's task.
        model: the student, whole, on the CPU.
        criterion: fairseq's criterion; one without parameters.
        quantizer: None.
        configuration: the engine's, checked against ``cfg``.

    Raises:
        InputError: the criterion has parameters.
    """

    def __init__(
        self,
        cfg: Any,
        task: Any,
        model: Any,
        criterion: Any,
        quantizer: Any = None,
        *,
        configuration: EngineConfiguration,
    ) -> None:
        if utils.has_parameters(criterion):
            raise InputError(
                f"--deepspeed: the criterion {type(criterion).__name__} has parameters of its own, "
                "which the engine would not train; use a criterion without"
            )
        super().__init__(cfg, task, model, criterion, quantizer)
        self.configuration = configuration
        self.sample_size = GlobalSampleSize(
            cfg.optimization.sentence_avg, self.data_parallel_process_group
        )
        self._engine: Any = None
        self.saver = Saver(self)

    @property
    def use_distributed_wrapper(self) -> bool:
        """No: the engine is the wrapper."""
        return False

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine; built when it is first asked for."""
        if self._engine is None:
            self._engine = build_engine(self._model, self.cfg, self.configuration)
            # fairseq would use it for all but the last batch of an update; in the engine every
            # backward just accumulates, and it refuses from ZeRO 2 on.
            self._engine.no_sync = contextlib.nullcontext
        return self._engine

    @property
    def model(self) -> Any:
        """The engine, which gives the student's attributes as its own."""
        return self.engine

    def reinitialize(self) -> None:
        """Refuse: the engine holds the parameters (asked for by quantization only)."""
        raise InputError("--deepspeed: the engine cannot be built a second time")

    def _build_optimizer(self) -> None:
        self._optimizer = DeepSpeedOptimizer(
            self.cfg.optimizer, self.engine, self.cfg.optimization.clip_norm, self.sample_size
        )
        self._lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, self._optimizer)
        self._lr_scheduler.step_update(0)

    @metrics.aggregate("train")
    def train_step(self, samples: Any, raise_oom: bool = False) -> Any:
        """Do one update, as fairseq does it.

        A rank that ran out of memory must not go on alone, so that is always raised.
        """
        self.sample_size.count(samples, self.device)
        try:
            return super().train_step(samples, raise_oom=True)
        except SkippedUpdate as skipped:
            # As fairseq does it after an OverflowError, whose handler wants a GPU.
            logger.info(f"NOTE: gradient overflow detected, ignoring gradient, {skipped}")
            metrics.log_scalar(
                "loss_scale", self.optimizer.scaler.loss_scale, priority=700, round=4, weight=0
            )
            metrics.log_stop_time("train_wall")
            return None

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        """Save a checkpoint on rank 0; the other ranks follow (see ``saving``)."""
        if Path(filename).name.startswith("crash"):
            # fairseq calls this on the rank that failed; the others would not come along.
            logger.warning("no crash.pt: a checkpoint of the engine needs all ranks")
            return None
        state = self.state_dict()
        state["extra_state"].update(extra_state)
        return self.saver.save(filename, state)

    def load_checkpoint(
        self,
        filename: str,
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        optimizer_overrides: Any = None,
        reset_meters: bool = False,
    ) -> dict[str, Any] | None:
        """Go on from a checkpoint of the engine, or from ordinary weights, if there are any."""
        return resume(
            self,
            filename,
            reset_optimizer,
            reset_lr_scheduler,
            optimizer_overrides,
            reset_meters,
        )

    @property
    def unpartitioned_model(self) -> Any:
        """The student before the engine takes it.

        Raises:
            RuntimeError: it has taken it.
        """
        if self._engine is not None:
            raise RuntimeError("the engine has the student already")
        return self._model

    def set_history(self, history: list[dict[str, Any]]) -> None:
        """Take up what fairseq notes of each training that a checkpoint went through."""
        self._optim_history = history
