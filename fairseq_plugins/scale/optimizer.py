"""The seam: what fairseq's train_step asks of its optimizer, done by DeepSpeed's engine."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairseq import utils
from fairseq.optim import FairseqOptimizer
from torch import Tensor, nn

from fairseq_plugins.scale.sizes import GlobalSampleSize
from seqdistill.errors import InputError


class SkippedUpdate(Exception):  # noqa: N818 (not an error: fp16's loss scaling works that way)
    """The loss scaler of fp16 skipped an update."""


@contextmanager
def held_loss_scale(scaler: Any) -> Iterator[None]:
    """Let fp16's loss scale grow after an update, not in its middle.

    DeepSpeed lets it grow between taking the gradients' norm and dividing them by the scale: that
    update would be of half the gradient.

    Args:
        scaler: DeepSpeed's; nothing is done with one that does not change.

    Raises:
        InputError: the scale is at its minimum and the gradient still overflows.
    """
    if not getattr(scaler, "dynamic", False):
        yield
        return
    window, scaler.scale_window = scaler.scale_window, math.inf
    try:
        yield
    except Exception as error:
        if "loss scale already at minimum" not in str(error):
            raise
        raise InputError(
            f"fp16's loss scale is at its minimum ({scaler.min_scale:g}) and the gradient still "
            "overflows: the loss is probably exploding. Lower --lr, clip (--clip-norm), or train "
            "with --bf16"
        ) from error
    finally:
        scaler.scale_window = window
    stable = scaler.cur_iter - 1 - scaler.last_overflow_iter - 1
    if stable > 0 and stable % window == 0:
        scaler.cur_scale *= scaler.scale_factor


class DeepSpeedOptimizer(FairseqOptimizer):
    """fairseq's view of the engine's optimizer.

    Args:
        cfg: fairseq's options of the optimizer.
        engine: DeepSpeed's engine, with an optimizer.
        clip_norm: ``--clip-norm``; 0 does not clip.
        sample_size: of the update that is being computed.
    """

    def __init__(
        self, cfg: Any, engine: Any, clip_norm: float, sample_size: GlobalSampleSize
    ) -> None:
        super().__init__(cfg)
        self.engine = engine
        self.sample_size = sample_size
        self._optimizer = engine.basic_optimizer
        self._norm: Tensor | None = None
        # An engine in float32 without ZeRO keeps no norm; it is taken where the gradients of all
        # ranks are added up and not yet used.
        self._engine_has_norm = hasattr(engine.optimizer, "_global_grad_norm")
        if not self._engine_has_norm:
            self._optimizer.register_step_pre_hook(self._clip)
        self._clip_norm = clip_norm

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The torch optimizer inside the engine's."""
        given: torch.optim.Optimizer = self._optimizer
        return given

    @property
    def scaler(self) -> Any:
        """What has the ``loss_scale`` that fairseq logs."""
        return self.engine.optimizer

    def set_lr(self, lr: float) -> None:
        """Set the learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a batch's loss sum, divided by the update's sample size.

        The engine takes the mean over ranks, so it is multiplied by their number.
        """
        ranks = self.engine.dp_world_size
        self.engine.backward(loss * (ranks / self.sample_size.total), scale_wrt_gas=False)

    def all_reduce_grads(self, module: nn.Module) -> None:
        """Do nothing: the engine adds up the ranks' gradients."""

    def multiply_grads(self, c: Any) -> None:
        """Check that fairseq would have divided by the sample size that :meth:`backward` took.

        Raises:
            InputError: the criterion counts something else.
        """
        ranks = self.engine.dp_world_size
        expected = ranks / (self.sample_size.reported or 1.0)
        if not math.isclose(float(c), expected, rel_tol=1e-5):
            unit = "sentences" if self.sample_size.by_sentences else "target tokens"
            raise InputError(
                f"--deepspeed: the criterion reports a sample size of {ranks / float(c):g}, the "
                f"update has {self.sample_size.reported:g} {unit}; only criteria that count "
                "target tokens (or sentences, with --sentence-avg) can be used"
            )

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """Do the update and return the norm of its gradient before clipping.

        The engine clips and steps at once, so :meth:`step` has nothing left to do.

        Raises:
            SkippedUpdate: the gradient of fp16 overflowed.
            RuntimeError: the gradient is not finite and no loss scale can help.
        """
        with held_loss_scale(getattr(self.engine.optimizer, "loss_scaler", None)):
            self.engine.step()
        if self._engine_has_norm:
            norm = torch.as_tensor(self.engine.get_global_grad_norm(), dtype=torch.float32)
        else:
            norm = self._norm if self._norm is not None else torch.tensor(0.0)
        if self.engine.fp16_enabled() and not self.engine.was_step_applied():
            raise SkippedUpdate(f"setting loss scale to: {self.scaler.loss_scale}")
        if not torch.isfinite(norm):
            # Not fairseq's FloatingPointError: it would run the batch again, with hooks, on
            # weights that float32 has already updated.
            raise RuntimeError(
                f"the gradient's norm is {float(norm)}; the training cannot go on. Lower --lr, "
                "clip (--clip-norm), or look for the batch without --deepspeed, where fairseq "
                "says which module gave it"
            )
        return norm.to(self.engine.device)

    def step(self, closure: Any = None, scale: float = 1.0, groups: Any = None) -> None:
        """Do nothing: :meth:`clip_grad_norm` did it."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the engine saves the optimizer's state with its shards."""
        return {}

    def zero_grad(self) -> None:
        """Do nothing: the engine clears gradients after each update."""

    def _clip(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._norm = utils.clip_grad_norm_(parameters, self._clip_norm)
