"""What a backend has to do: three operations on rows of the vocabulary, and how rows are described.

The driver (:mod:`seqdistill.kernels.fused`) does the matrix products and walks the chunks; a
backend never sees more than one chunk of n token rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

#: The losses that a pass over the student's logits can compute.
KINDS = ("proxy_dirichlet", "proxy_dirichlet_forward", "end2", "mean_kl")


@dataclass(frozen=True)
class RowLoss:
    """What is computed for each row.

    Attributes:
        kind: one of :data:`KINDS`.
        offset: o in α = e^z + o, 1 or 0; ``mean_kl`` has none.
        mix_weight: w of (1 − w) · distillation + w · label-smoothed cross-entropy.
        label_smoothing: ε of that cross-entropy.
    """

    kind: str
    offset: float = 1.0
    mix_weight: float = 0.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class RowTargets:
    """What the rows of one chunk are compared with; None where a loss does not need it.

    Attributes:
        mean_probs: (n, V) p̄, float32; every loss but ``end2``.
        mean_log_probs: (n, V) ℓ̄, float32; ``end2``.
        inverse_w: (n) 1/w of the proxy losses.
        inverse_precision: (n) 1/β̃₀, the forward KL.
        references: (n) reference pieces, int64.
        row_weight: (n) factor of each row's loss and gradient; None is 1.
    """

    mean_probs: Tensor | None = None
    mean_log_probs: Tensor | None = None
    inverse_w: Tensor | None = None
    inverse_precision: Tensor | None = None
    references: Tensor | None = None
    row_weight: Tensor | None = None


@dataclass(frozen=True)
class StudentRows:
    """What a pass over the student's logits leaves beside the gradient.

    Attributes:
        loss: (n) in nats, the row weight applied.
        log_sum: (n) ln Σ e^z.
        reference_logit: (n) z at the reference; None without references.
        largest_logit: (n) max z.
    """

    loss: Tensor
    log_sum: Tensor
    reference_logit: Tensor | None
    largest_logit: Tensor


class RowBackend(Protocol):
    """The row operations; all tensors of a call are on one device."""

    name: str

    def add_members_(
        self,
        logits: Sequence[Tensor],
        inverse_temperature: float,
        weight: float,
        mean_probs: Tensor,
        mean_log_probs: Tensor,
        negative_entropies: Tensor,
        is_first: bool = False,
    ) -> None:
        """Add members' p = softmax(logits/T) to the means over members.

        Args:
            logits: (n, V) of each of m members, of one dtype; any constant per row may be missing;
                not changed.
            inverse_temperature: 1/T.
            weight: 1/M, of all M members: m of them may be here.
            mean_probs: (n, V) += weight · Σ p.
            mean_log_probs: (n, V) += weight · Σ ln p.
            negative_entropies: (m, n) = weight · Σ_v p ln p; NaN for a row that holds NaN.
            is_first: the two sums begin here, whatever they hold (saves a pass).
        """
        ...

    def ensemble_rows(
        self, mean_probs: Tensor, mean_log_probs: Tensor, negative_entropy: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return TU = H(p̄) and RMI = Σ p̄ (ln p̄ − ℓ̄) of each row, (n) each, in nats."""
        ...

    def student_rows_(
        self,
        logits: Tensor,
        loss: RowLoss,
        targets: RowTargets,
        wants_gradient: bool,
        gradient: Tensor | None = None,
    ) -> StudentRows:
        """Compute the loss of each row, and row_weight · ∂loss/∂z.

        Args:
            logits: (n, V) of the student.
            loss: what to compute.
            targets: of the same rows.
            wants_gradient: False for validation.
            gradient: (n, V) of the logits' dtype that receives the gradient; None puts it in the
                logits' place. If no gradient is wanted, that place holds nothing of use afterwards.
        """
        ...
