"""Token uncertainty of a Dirichlet student, in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.cpp.uncertainty import dirichlet_measures
from seqdistill.numerics import DirichletTerms


@dataclass(frozen=True)
class UncertaintyMeasures:
    """Uncertainty of each token under Dir(α); nats unless said otherwise, higher = more uncertain.

    Attributes:
        total_uncertainty: (...) TU = H(α/α₀).
        data_uncertainty: (...) DU = −Σ (α/α₀)(ψ(α+1) − ψ(α₀+1)).
        mutual_information: (...) MI = TU − DU.
        epkl: (...) EPKL = (V − 1)/α₀.
        reverse_mutual_information: (...) RMI = Σ (α/α₀)(ln(α/α₀) − ψ(α) + ψ(α₀)).
        total_uncertainty_base: (...) H(softmax(z)), the entropy of the base distribution.
        inverse_precision: (...) 1/α₀ (no unit).
    """

    total_uncertainty: Tensor
    data_uncertainty: Tensor
    mutual_information: Tensor
    epkl: Tensor
    reverse_mutual_information: Tensor
    total_uncertainty_base: Tensor
    inverse_precision: Tensor

    @property
    def precision(self) -> Tensor:
        """(...) α₀ (no unit; higher = *less* uncertain)."""
        return self.inverse_precision.reciprocal()


def dirichlet_uncertainty(logits: Tensor, offset: float = 1.0) -> UncertaintyMeasures:
    """Return the token uncertainties of a Dirichlet student.

    MI, RMI and EPKL come from one sum each instead of a difference of entropies, so they keep
    their digits when the student is sure: with x (ln x − ψ(x)) = R,

        MI = (V − 1 − Σ R(α) + R(α₀))/α₀,   RMI = (Σ R(α) − R(α₀))/α₀     (o = 1)

    and EPKL = MI + RMI holds to rounding (Malinin, Mlodozeniec & Gales 2020; Malinin & Gales 2021).
    On a CPU the compiled kernels do it in two passes over the logits, where there are any.

    Args:
        logits: (..., V) student logits z, any floating dtype.
        offset: o in α = e^z + o, 1 or 0.

    Returns:
        The measures, each (...), float32 at least.

    Raises:
        InputError: an unknown offset.

    Example:
        >>> import torch
        >>> u = dirichlet_uncertainty(torch.zeros(4), offset=1.0)
        >>> u.epkl, u.precision
        (tensor(0.3750), tensor(8.))
    """
    if offset not in (0, 1):
        raise InputError(f"expected an offset of 1 (default) or 0, got {offset}")
    compiled = dirichlet_measures(logits, offset)
    if compiled is not None:
        data = compiled["total_uncertainty"] - compiled["mutual_information"]
        return UncertaintyMeasures(data_uncertainty=data, **compiled)
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    terms = DirichletTerms(logits, offset)
    V, row, elements = terms.V, terms.row, terms.elements
    inverse_precision = terms.inverse_precision
    epkl = (V - 1) * inverse_precision
    if offset == 1:
        # x = α is at least 1 here, so R is the fitted function itself.
        rmi = (elements.r.sum(-1, keepdim=True) - row.r) * inverse_precision
        mutual_information = epkl - rmi
    else:
        excess = (terms.probs * elements.digamma_excess).sum(-1, keepdim=True)
        mutual_information = excess - row.digamma_excess
        rmi = epkl - mutual_information
    total = -(terms.log_mean.exp() * terms.log_mean).sum(-1)
    mutual_information = mutual_information.squeeze(-1)
    return UncertaintyMeasures(
        total_uncertainty=total,
        data_uncertainty=total - mutual_information,
        mutual_information=mutual_information,
        epkl=epkl.squeeze(-1),
        reverse_mutual_information=rmi.squeeze(-1),
        total_uncertainty_base=-(terms.probs * terms.log_probs).sum(-1),
        inverse_precision=inverse_precision.squeeze(-1),
    )


def precision_of(logits: Tensor, offset: float = 1.0) -> Tensor:
    """Return (...) α₀ = Σ (e^z + o) alone, for logging; logits (..., V)."""
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    return DirichletTerms(logits, offset).inverse_precision.reciprocal().squeeze(-1)


def precision_of_rows(log_sum: Tensor, V: int, offset: float = 1.0) -> Tensor:
    """Return (...) α₀ = S + oV from ln S, where the logits are not at hand."""
    return log_sum.exp() + offset * V
