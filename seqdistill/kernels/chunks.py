"""What the walk asks of a source of targets, a chunk of tokens at a time."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seqdistill.kernels.backend import RowBackend
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.workspace import Workspace
from seqdistill.targets.proxy import inverse_precision_by_rmi

# A chunk's logits: 40 MiB on a CPU, 256 MiB on a GPU; at least that many tokens, or the products
# would spend their time on reading the projection.
_CPU_ELEMENTS, _CPU_TOKENS = 10 << 20, 128
_GPU_ELEMENTS, _GPU_TOKENS = 1 << 26, 128


def default_chunk_tokens(V: int, device: torch.device) -> int:
    """Return how many tokens a chunk has."""
    if device.type == "cpu":
        return max(_CPU_TOKENS, _CPU_ELEMENTS // V)
    return max(_GPU_TOKENS, _GPU_ELEMENTS // V)


@dataclass(frozen=True)
class ChunkTarget:
    """The targets of n tokens; what a loss does not need may be None."""

    mean_probs: Tensor | None = None
    mean_log_probs: Tensor | None = None
    inverse_precision: Tensor | None = None
    total_uncertainty: Tensor | None = None
    mutual_information: Tensor | None = None
    epkl: Tensor | None = None
    reverse_mutual_information: Tensor | None = None


class TargetSource(Protocol):
    """Targets of N tokens over V pieces; gives those of a chunk when asked."""

    tokens: int
    V: int

    @property
    def longest(self) -> int:
        """The most tokens that a batch read here has: ``tokens``, or another rank's."""
        return self.tokens

    def start(self, chunk_tokens: int, backend: RowBackend, work: Workspace) -> None:
        """Say before the first chunk how a walk goes; ranks walk it together."""
        return

    def chunk(
        self, begin: int, end: int, loss: DistillationLoss, backend: RowBackend, work: Workspace
    ) -> ChunkTarget:
        """Return the targets of the tokens from ``begin`` to ``end``."""
        ...

    def finish(self) -> None:
        """Raise what was found out on the way, after the last chunk."""
        ...


def ensemble_target(
    loss: DistillationLoss,
    backend: RowBackend,
    mean_probs: Tensor,
    mean_log_probs: Tensor,
    negative_entropy: Tensor,
) -> ChunkTarget:
    """Return the target of a chunk whose members have been added up.

    Args:
        loss: which is computed.
        backend: of the rows.
        mean_probs: (n, V) p̄.
        mean_log_probs: (n, V) ℓ̄.
        negative_entropy: (n) mean_m Σ_v p_m ln p_m.
    """
    total, rmi = backend.ensemble_rows(mean_probs, mean_log_probs, negative_entropy)
    mutual_information = (total + negative_entropy).clamp_min_(0.0)
    epkl = mutual_information + rmi
    precision = inverse_precision(loss, mean_probs.shape[-1], rmi, epkl, mean_probs)
    return ChunkTarget(mean_probs, mean_log_probs, precision, total, mutual_information, epkl, rmi)


def project(features: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """Return features · weightᵀ + bias in ``out``."""
    torch.mm(features, weight.t(), out=out)
    return out if bias is None else out.add_(bias)


def inverse_precision(
    loss: DistillationLoss, V: int, rmi: Tensor, epkl: Tensor, mean_probs: Tensor
) -> Tensor | None:
    """Return (n) 1/β̃₀ of the proxy that a loss is of; None if it is of none."""
    if not loss.is_proxy:
        return None
    if loss.concentration == "mkl":
        return 2 * rmi / (V - 1)
    if loss.concentration == "epkl":
        return epkl / (V - 1)
    return inverse_precision_by_rmi(mean_probs, rmi)


def select_rows(values: Tensor, index: Tensor | None, width: int = 1) -> Tensor:
    """Flatten the leading dimensions and keep the tokens that count."""
    values = values.detach()
    flat = values.reshape(-1, values.shape[-1]) if width else values.reshape(-1)
    return flat if index is None else flat[index]
