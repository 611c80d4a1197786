"""The Proxy-Dirichlet losses: reverse KL (the method) and forward KL (for comparison).

The value of a Dirichlet's entropy written naively cancels terms of size x ln x; here it is
grouped into the bounded functions of :mod:`seqdistill.numerics`, in which the large terms cancel
on paper. The gradient is written, not differentiated:

    o = 1:  ∂L/∂z_v = p_v (U₀ + G₀/w) − p̄_v u_v − g_v/w,     p = softmax(z)

with u, g of :class:`~seqdistill.numerics.ExpGamma`, U₀ = S ψ'(α₀), G₀ = S (1 − U₀), S = Σ e^z.
Every factor is bounded. It vanishes at e^{z_v} = w p̄_v.
"""

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.rows import RowFunction, check_offset, check_vocabulary, masked_sum
from seqdistill.numerics import DirichletTerms
from seqdistill.targets import ProxyDirichletTarget

NORMALISATIONS = ("proxy", "total")

# The forward KL diverges where the members agree entirely; beyond these its value and gradient no
# longer change in float32.
_LARGEST_PRECISION = 1e30
_LOWEST_LOGIT = -80.0


def proxy_dirichlet_loss(
    logits: Tensor,
    target: ProxyDirichletTarget,
    token_mask: Tensor | None = None,
    *,
    offset: float = 1.0,
    normalisation: str = "proxy",
) -> tuple[Tensor, Tensor]:
    """Reverse KL from the student's Dirichlet to the Proxy-Dirichlet, per unit of precision.

    Per token L = −Σ_v p̄_v (ψ(α_v) − ψ(α₀)) − H[Dir(α)]/w with α = e^z + offset. With w = β̃₀ this is
    KL(Dir(α)‖Dir(β))/β̃₀ up to a constant of the teachers, β = β̃₀ p̄ + 1 (Ryabinin, Malinin &
    Gales 2021, eq. 11).

    Args:
        logits: (..., V) student logits z, any floating dtype; exact for |z| ≤ 80 in float32.
        target: from :func:`seqdistill.targets.proxy_dirichlet_target`, (..., V) and (...).
        token_mask: (...) bool, True where a token counts; None counts all.
        offset: o in α = e^z + o, 1 or 0.
        normalisation: the w: ``proxy`` is β̃₀, ``total`` is β̃₀ + V (what the released research code
            computes).

    Returns:
        Loss sum (scalar, nats) and the number of counted tokens.

    Raises:
        InputError: shapes differ, or an unknown offset or normalisation.

    Example:
        >>> import torch
        >>> from seqdistill.teachers import ensemble_statistics
        >>> from seqdistill.targets import proxy_dirichlet_target
        >>> s = ensemble_statistics(torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log())
        >>> t = proxy_dirichlet_target(s)
        >>> best = (t.precision.unsqueeze(-1) * t.mean_probs).log().requires_grad_()
        >>> loss_sum, tokens = proxy_dirichlet_loss(best, t)
        >>> loss_sum.backward()
        >>> bool(best.grad.abs().max() < 1e-6), int(tokens)
        (True, 1)
    """
    check_offset(offset)
    check_vocabulary(logits, target.mean_probs, "the target's mean_probs")
    V = logits.shape[-1]
    inverse_w = inverse_normalisation(target.inverse_precision, V, normalisation)
    targets = (target.mean_probs, inverse_w)
    return masked_sum(reverse_rows(offset), logits, targets, token_mask)


def proxy_dirichlet_forward_loss(
    logits: Tensor,
    target: ProxyDirichletTarget,
    token_mask: Tensor | None = None,
    *,
    offset: float = 1.0,
    normalisation: str = "proxy",
) -> tuple[Tensor, Tensor]:
    """Forward KL from the Proxy-Dirichlet to the student's, KL(Dir(β)‖Dir(α))/w per token.

    It exists for comparison: its gradient e^z (ψ(α) − ψ(α₀) − ψ(β) + ψ(β₀)) is dominated by the
    tail of a large vocabulary. It is 0 at α = β.

    Args:
        logits: (..., V) student logits z.
        target: the proxy; its precision must be finite (the members must not agree entirely).
        token_mask: (...) bool, True where a token counts; None counts all.
        offset: o in α = e^z + o, 1 or 0.
        normalisation: the w: ``proxy`` is β̃₀, ``total`` is β̃₀ + V.

    Returns:
        Loss sum (scalar, nats) and the number of counted tokens.

    Raises:
        InputError: shapes differ, or an unknown offset or normalisation.

    Example:
        >>> import torch
        >>> from seqdistill.teachers import ensemble_statistics
        >>> from seqdistill.targets import proxy_dirichlet_target
        >>> s = ensemble_statistics(torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log())
        >>> t = proxy_dirichlet_target(s)
        >>> equal = (t.precision.unsqueeze(-1) * t.mean_probs).log()
        >>> loss_sum, tokens = proxy_dirichlet_forward_loss(equal, t)
        >>> bool(loss_sum.abs() < 1e-6), int(tokens)
        (True, 1)
    """
    check_offset(offset)
    check_vocabulary(logits, target.mean_probs, "the target's mean_probs")
    inverse_precision = forward_precision(target.inverse_precision)
    inverse_w = inverse_normalisation(inverse_precision, logits.shape[-1], normalisation)
    targets = (target.mean_probs, inverse_precision, inverse_w)
    return masked_sum(forward_rows(offset), logits, targets, token_mask)


def inverse_normalisation(inverse_precision: Tensor, V: int, normalisation: str) -> Tensor:
    """Return 1/w (...) from 1/β̃₀: of β̃₀ (``proxy``) or of β̃₀ + V (``total``).

    Raises:
        InputError: an unknown normalisation.
    """
    if normalisation == "proxy":
        return inverse_precision
    if normalisation == "total":
        # Not d/(1 + V d): where the members contradict each other V d overflows.
        return 1 / (inverse_precision.reciprocal() + V)
    raise InputError(
        f"expected a normalisation among {', '.join(NORMALISATIONS)}, got {normalisation!r}"
    )


def forward_precision(inverse_precision: Tensor) -> Tensor:
    """Return 1/β̃₀ (...) kept above 0, where the forward KL would diverge."""
    return inverse_precision.clamp_min(1 / _LARGEST_PRECISION)


def reverse_rows(offset: float) -> RowFunction:
    """Return the row function of the reverse KL; its targets: p̄ (n, V) and 1/w (n)."""
    return _reverse_rows_offset_one if offset == 1 else _reverse_rows_offset_zero


def _reverse_rows_offset_one(
    z: Tensor, targets: tuple[Tensor, ...], wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    mean_probs, inverse_w = targets[0], targets[1].unsqueeze(-1)
    terms = DirichletTerms(z, 1.0)
    fit = -(mean_probs * terms.expected_log).sum(-1, keepdim=True)
    loss = (fit - terms.entropy * inverse_w).squeeze(-1)
    if not wants_gradient:
        return loss, None
    # With b = α₀ − 1 = e^y and ρ = S/b: U₀ = ρ u(y) and G₀ = ρ (g(y) + (V − 1) u(y)).
    elements, row = terms.elements, terms.row
    u_total = terms.share * row.trigamma
    g_total = terms.share * (row.trigamma_gap + (terms.V - 1) * row.trigamma)
    gradient = terms.probs * (u_total + g_total * inverse_w)
    gradient -= mean_probs * elements.trigamma
    gradient -= elements.trigamma_gap * inverse_w
    return loss, gradient


def _reverse_rows_offset_zero(
    z: Tensor, targets: tuple[Tensor, ...], wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    mean_probs, inverse_w = targets[0], targets[1].unsqueeze(-1)
    terms = DirichletTerms(z, 0.0)
    fit = -(mean_probs * terms.expected_log).sum(-1, keepdim=True)
    loss = (fit - terms.entropy * inverse_w).squeeze(-1)
    if not wants_gradient:
        return loss, None
    # e^z ψ'(e^z) = u + e^{−z}; the terms e^z/w of the two halves cancel on paper.
    elements, row = terms.elements, terms.row
    slope = elements.trigamma + (-z).exp()
    slope_total = row.trigamma + (-terms.row_z).exp()
    shared = slope_total * (1 + terms.V * inverse_w) - (1 - row.trigamma_gap) * inverse_w
    gradient = terms.probs * shared
    gradient -= slope * (mean_probs + inverse_w)
    gradient += (1 - elements.trigamma_gap) * inverse_w
    return loss, gradient


def forward_rows(offset: float) -> RowFunction:
    """Return the row function of the forward KL; its targets: p̄ (n, V), 1/β̃₀ and 1/w (n)."""

    def rows(
        z: Tensor, targets: tuple[Tensor, ...], wants_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        mean_probs = targets[0]
        inverse_precision, inverse_w = targets[1].unsqueeze(-1), targets[2].unsqueeze(-1)
        V = z.shape[-1]
        terms = DirichletTerms(z, offset)
        # The proxy is a Dirichlet of the same form: β = e^b + 1 with b = ln(β̃₀ p̄).
        proxy = DirichletTerms(
            mean_probs.log().clamp_min(_LOWEST_LOGIT) - inverse_precision.log(), 1.0
        )
        bracket = terms.digamma_gap - proxy.digamma_gap
        # a/w before anything else: e^80 times a vocabulary does not fit into float32.
        scaled = (z + inverse_w.log()).exp()
        local = (terms.elements.entropy_term - proxy.elements.entropy_term).sum(-1, keepdim=True)
        local = local + proxy.row.entropy_term - terms.row.entropy_term
        if offset == 1:
            local = local + (V - 1) * (proxy.row.digamma - terms.row.digamma)
        else:
            gaps = (proxy.elements.digamma - z).sum(-1, keepdim=True)
            local = local + gaps - proxy.row.digamma - (V - 1) + terms.row_z
        loss = (local * inverse_w + (scaled * bracket).sum(-1, keepdim=True)).squeeze(-1)
        if not wants_gradient:
            return loss, None
        gradient = scaled * bracket
        if offset == 0:
            gradient += (terms.probs - 1) * inverse_w
        return loss, gradient

    return rows
