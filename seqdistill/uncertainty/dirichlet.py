"""Token uncertainty of a Dirichlet student, in closed form."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.cpp.library import MEASURES, DirichletRows
from seqdistill.kernels.cpp.uncertainty import dirichlet_rows
from seqdistill.numerics import DirichletTerms
from seqdistill.student.head import PREDICTIVES, predictive_log_probs
from seqdistill.uncertainty.reading import row_chunks


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
    rows = dirichlet_rows(logits.reshape(-1, logits.shape[-1]), offset)
    if rows is not None:
        return _of_rows(rows, logits.shape[:-1])
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


@dataclass(frozen=True)
class DirichletReading:
    """Everything that a decoding step wants to know of its rows.

    Attributes:
        log_probs: (n, V) of the predictive distribution, free to be changed.
        measures: each (n).
        log_total: (n) ln Σ e^z, float64: what a chosen token is compared with later.
    """

    log_probs: Tensor
    measures: UncertaintyMeasures
    log_total: Tensor


def dirichlet_reading(
    logits: Tensor, offset: float, predictive: str, *, is_free: bool = False
) -> DirichletReading:
    """Return the predictive distribution of rows and their measures, together.

    The same as :func:`predictive_log_probs` and :func:`dirichlet_uncertainty`, which share the
    passes over the logits where there are compiled kernels.

    Args:
        logits: (n, V) student logits z, any floating dtype.
        offset: o in α = e^z + o, 1 or 0.
        predictive: ``base`` (softmax(z)) or ``mean`` (α/α₀).
        is_free: the logits' memory may be used for the log-probabilities.

    Raises:
        InputError: an unknown offset or predictive.
    """
    if predictive not in PREDICTIVES or offset not in (0, 1):
        raise InputError(
            f"expected a predictive among {', '.join(PREDICTIVES)} and an offset of 1 or 0, got "
            f"{predictive!r} and {offset}"
        )
    rows = dirichlet_rows(logits, offset, predictive, is_free=is_free)
    if rows is None or rows.log_probs is None:
        return _plain_reading(logits, offset, predictive)
    log_total = rows.largest.double() + rows.log_gap
    return DirichletReading(rows.log_probs, _of_rows(rows, logits.shape[:-1]), log_total)


def _plain_reading(logits: Tensor, offset: float, predictive: str) -> DirichletReading:
    wide = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    chunks = row_chunks(wide)
    tops = [rows.amax(-1, keepdim=True) for rows in chunks]
    largest = torch.cat(tops)
    gaps = ((rows - top).double() for rows, top in zip(chunks, tops, strict=True))
    log_gap = torch.cat([torch.logsumexp(gap, -1, keepdim=True) for gap in gaps])
    parts = [dirichlet_uncertainty(rows, offset) for rows in chunks]
    measures = {
        f.name: torch.cat([getattr(part, f.name) for part in parts])
        for f in fields(UncertaintyMeasures)
    }
    return DirichletReading(
        predictive_log_probs(wide, offset, predictive),
        UncertaintyMeasures(**measures),
        (largest.double() + log_gap).squeeze(-1),
    )


def _of_rows(rows: DirichletRows, shape: torch.Size) -> UncertaintyMeasures:
    measures = dict(zip(MEASURES, rows.measures.view(len(MEASURES), *shape), strict=True))
    data = measures["total_uncertainty"] - measures["mutual_information"]
    return UncertaintyMeasures(data_uncertainty=data, **measures)


def precision_of(logits: Tensor, offset: float = 1.0) -> Tensor:
    """Return (...) α₀ = Σ (e^z + o) alone, for logging; logits (..., V)."""
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    return DirichletTerms(logits, offset).inverse_precision.reciprocal().squeeze(-1)


def precision_of_rows(log_sum: Tensor, V: int, offset: float = 1.0) -> Tensor:
    """Return (...) α₀ = S + oV from ln S, where the logits are not at hand."""
    return log_sum.exp() + offset * V
