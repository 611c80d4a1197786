"""What the fused loss is asked for: which loss, with which settings."""

from dataclasses import dataclass

from seqdistill.errors import InputError
from seqdistill.kernels.backend import KINDS, RowLoss
from seqdistill.losses.proxy_dirichlet import NORMALISATIONS
from seqdistill.losses.rows import check_offset
from seqdistill.targets.proxy import CONCENTRATIONS


@dataclass(frozen=True)
class DistillationLoss:
    """A distillation loss, and the cross-entropy that may be mixed in.

    Attributes:
        kind: ``proxy_dirichlet`` (reverse KL), ``proxy_dirichlet_forward``, ``end2`` or
            ``mean_kl``.
        concentration: how the proxy's precision is had: ``mkl``, ``epkl`` or ``exact``.
        normalisation: the w that the proxy losses are divided by: ``proxy`` or ``total``.
        offset: o in α = e^z + o, 1 or 0.
        mix_weight: w of (1 − w) · distillation + w · label-smoothed cross-entropy.
        label_smoothing: ε of that cross-entropy.

    Raises:
        InputError: a setting is unknown or out of range.

    Example:
        >>> DistillationLoss("proxy_dirichlet", mix_weight=0.1).needs_references
        True
    """

    kind: str = "proxy_dirichlet"
    concentration: str = "mkl"
    normalisation: str = "proxy"
    offset: float = 1.0
    mix_weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("loss", self.kind, KINDS),
            ("concentration", self.concentration, CONCENTRATIONS),
            ("normalisation", self.normalisation, NORMALISATIONS),
        ):
            if value not in allowed:
                raise InputError(
                    f"expected {name} to be one of {', '.join(allowed)}, got {value!r}"
                )
        check_offset(self.offset)
        if not 0 <= self.mix_weight <= 1:
            raise InputError(f"expected a mix weight in [0, 1], got {self.mix_weight}")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"expected a label smoothing in [0, 1), got {self.label_smoothing}")

    @property
    def needs_references(self) -> bool:
        """Whether reference pieces must be given."""
        return self.mix_weight > 0

    @property
    def needs_mean_log_probs(self) -> bool:
        """Whether the loss reads ℓ̄ (and not p̄)."""
        return self.kind == "end2"

    @property
    def is_proxy(self) -> bool:
        """Whether the loss needs the proxy's precision."""
        return self.kind.startswith("proxy_dirichlet")

    @property
    def row_loss(self) -> RowLoss:
        """What a backend has to know."""
        return RowLoss(self.kind, float(self.offset), self.mix_weight, self.label_smoothing)
