"""The kernel over the student's logits: the loss of a row, and its gradient in the logits' place.

One program a row, two passes over it. The first finds max z and ln Σ e^z (and the same of the
target where a loss needs it); then the row's own terms are computed as float64 scalars; the second
adds up the loss and writes the gradient. The second pass may find the row in the L2 cache, and the
scalars need no second launch: a few hundred float64 operations a row, against V of float32.

With ``rest`` = ψ(1 + e^z) − max(z, 0), m = max z and ψ₀ = ψ(1 + e^y) of the row, the difference
ψ(1 + e^z) − ψ₀ is

    (z − m) − (ψ₀ − m) + rest   for z > 0,      rest − ψ₀   for z ≤ 0:

every term is as small as the difference itself or nearly so, for logits of ±80 in float32.
"""
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-def,no-untyped-call"
# mypy: disable-error-code="misc,untyped-decorator"

import math

import triton
import triton.language as tl

from seqdistill.kernels.triton.functions import (
    LOWEST_LOGIT,
    TINY,
    add_to_softmax,
    digamma_rest,
    entropy_term,
    exp_gamma,
    exponential,
    merge_softmax,
    q_of,
    row_terms,
    shares,
)
from seqdistill.losses.proxy_dirichlet import _LOWEST_LOGIT

#: Where the forward KL stops to follow p̄ → 0, as in the loss itself.
LOWEST_PROB = tl.constexpr(math.exp(_LOWEST_LOGIT))

PROXY, FORWARD, END2, MEAN_KL = (tl.constexpr(i) for i in range(4))
#: The kernel's number of each kind.
NUMBERS = {
    "proxy_dirichlet": PROXY.value,
    "proxy_dirichlet_forward": FORWARD.value,
    "end2": END2.value,
    "mean_kl": MEAN_KL.value,
}


@triton.jit
def digamma_gap(positive, shifted, rest, row_digamma, row_digamma_gap):
    """ψ(1 + e^z) − ψ₀ without cancellation, from ψ₀ and ψ₀ − m; see the top of this file."""
    return tl.where(positive, shifted - row_digamma_gap, -row_digamma) + rest


@triton.jit
def reciprocal(wanted, x):
    """1/x where wanted, 1 elsewhere: no division by a 0 that nobody asked for."""
    return 1 / tl.where(wanted, x, 1.0)


@triton.jit
def proxy_terms(probs, inverse_precision, log_inverse_precision):
    """The proxy's b = ln(β̃₀ p̄): (ln p̄, b > 0, max(b, 0), t, s, ln(1 + e^{−|b|})).

    e^{−|b|} is a ratio of what is given: no logarithm is exponentiated again.
    """
    probs = tl.where(probs < LOWEST_PROB, LOWEST_PROB, probs)
    log_probs = tl.log(probs)
    ratio = probs / inverse_precision
    positive = ratio > 1
    t, s, log_correction = shares(positive, tl.where(positive, reciprocal(positive, ratio), ratio))
    b_positive = tl.maximum(log_probs - log_inverse_precision, 0.0)
    return log_probs, positive, b_positive, t, s, log_correction


@triton.jit
def student_kernel(
    logits_ptr,
    gradient_ptr,
    target_ptr,
    inverse_w_ptr,
    inverse_precision_ptr,
    references_ptr,
    row_weight_ptr,
    loss_ptr,
    log_sum_ptr,
    reference_logit_ptr,
    largest_ptr,
    V,
    logits_stride,
    gradient_stride,
    target_stride,
    mix_weight,
    label_smoothing,
    KIND: tl.constexpr,
    OFFSET: tl.constexpr,
    MIXED: tl.constexpr,
    WANTS_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row; targets that a loss has not are None. ``target`` is p̄, for END2 ℓ̄."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * logits_stride
    gradient_ptr += row * gradient_stride
    target_ptr += row * target_stride

    # Read before any write of this program: the reductions below hold every warp back until then.
    reference = -1
    reference_logit = 0.0
    if references_ptr is not None:
        reference = tl.load(references_ptr + row)
        known = (reference >= 0) & (reference < V)
        reference = tl.where(known, reference, 0).to(tl.int32)
        reference_logit = tl.load(logits_ptr + reference).to(tl.float32)
        # One that is no piece makes the row NaN: a kernel cannot raise.
        reference_logit = tl.where(known, reference_logit, float("nan"))

    # First pass.
    lane_largest = tl.full((BLOCK,), LOWEST_LOGIT, tl.float32)
    lane_total = tl.zeros((BLOCK,), tl.float32)
    lane_mass = tl.zeros((BLOCK,), tl.float32)
    lane_top = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        z = tl.load(logits_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
        lane_largest, lane_total = add_to_softmax(z, lane_largest, lane_total)
        if KIND == MEAN_KL:
            lane_mass += tl.load(target_ptr + columns, mask=inside, other=0.0)
        if KIND == FORWARD:
            probs = tl.load(target_ptr + columns, mask=inside, other=0.0)
            probs = tl.where(inside & (probs < LOWEST_PROB), LOWEST_PROB, probs)
            lane_mass += probs
            lane_top = tl.maximum(lane_top, probs)

    # The row's terms, in float64.
    largest, total = merge_softmax(lane_largest, lane_total)
    log_gap64 = tl.log(total)
    log_sum = largest.to(tl.float64) + log_gap64
    log_gap = log_gap64.to(tl.float32)
    share = (1 / total).to(tl.float32)
    mass = tl.sum(lane_mass.to(tl.float64))
    mass32 = mass.to(tl.float32)
    if KIND != MEAN_KL:
        y, row_digamma, row_entropy, row_u, row_g = row_terms(log_sum, V, OFFSET)
        psi = row_digamma.to(tl.float32)
        psi_gap = (row_digamma - largest).to(tl.float32)
    if KIND == PROXY or KIND == FORWARD:  # noqa: SIM109 - Triton compiles no "in"
        inverse_w64 = tl.load(inverse_w_ptr + row).to(tl.float64)
        inverse_w = inverse_w64.to(tl.float32)
    if KIND == PROXY:
        if OFFSET == 1:
            # S ψ'(α₀) and S (1 − S ψ'(α₀)): u and g of the row, times S/(α₀ − 1).
            row_share = tl.exp(log_sum - y)
            u_total = row_share * row_u
            p_factor = u_total + row_share * (row_g + (V - 1) * row_u) * inverse_w64
        else:
            row_inverse = tl.exp(-y)
            row_inverse32 = row_inverse.to(tl.float32)
            p_factor = (row_u + row_inverse) * (1 + V * inverse_w64) - (1 - row_g) * inverse_w64
        p_factor = p_factor.to(tl.float32)
    if KIND == FORWARD:
        # e^z/w of a runaway logit fits where e^z does not: the row takes what is above e^80.
        beyond = tl.maximum(largest - 80, 0.0)
        scale = (tl.exp(beyond.to(tl.float64)) * inverse_w64).to(tl.float32)
        inverse_precision = tl.load(inverse_precision_ptr + row)
        log_inverse64 = tl.log(inverse_precision.to(tl.float64))
        log_inverse = log_inverse64.to(tl.float32)
        log_top = tl.log(tl.max(lane_top).to(tl.float64))
        proxy_largest = log_top - log_inverse64
        _, proxy_digamma, proxy_entropy, _, _ = row_terms(tl.log(mass) - log_inverse64, V, 1)
        proxy_psi = proxy_digamma.to(tl.float32)
        proxy_psi_gap = (proxy_digamma - proxy_largest).to(tl.float32)
        log_top = log_top.to(tl.float32)
    keep = 1 - mix_weight
    other = label_smoothing / (V - 1)
    weight = 1.0
    if row_weight_ptr is not None:
        weight = tl.load(row_weight_ptr + row)

    # Second pass.
    lane_fit = tl.zeros((BLOCK,), tl.float32)
    lane_local = tl.zeros((BLOCK,), tl.float32)
    lane_shifted = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        z = tl.load(logits_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        target = tl.load(target_ptr + columns, mask=inside, other=0.0)
        shifted = z - largest
        p = exponential(shifted) * share
        if KIND == MEAN_KL:
            log_mean = tl.log(tl.where(target < TINY, TINY, target))
            # Differences first: a sum of p̄ ln p̄ minus one of p̄ ln p would cancel.
            fit = target * (log_mean - (shifted - log_gap))
            gradient = p * mass32 - target
        else:
            positive = z > 0
            z_positive = tl.maximum(z, 0.0)
            t, s, log_correction, small = exp_gamma(z)
            rest = digamma_rest(t, log_correction)
            gap = digamma_gap(positive, shifted, rest, psi, psi_gap)
            local = entropy_term(z_positive, s, log_correction)
        if KIND == PROXY:
            q = q_of(t)
            u = s * (1 + t * q)
            g = s * (1 - s * q)
            if OFFSET == 1:
                fit = -target * gap
                gradient = p * p_factor - target * u - g * inverse_w
            else:
                inverse = tl.where(positive, small, reciprocal(z <= 0, small))
                fit = -target * (gap - inverse + row_inverse32)
                local += (z_positive - z) + rest - inverse
                slope = u + inverse
                gradient = p * p_factor - slope * (target + inverse_w) + (1 - g) * inverse_w
        if KIND == END2:
            gradient = tl.where(positive, reciprocal(positive, small), small) * (gap - target)
            fit = gradient
            if OFFSET == 0:
                local += target - z
                gradient += p - 1
        if KIND == FORWARD:
            log_probs, b_above, b_positive, b_t, b_s, b_correction = proxy_terms(
                target, inverse_precision, log_inverse
            )
            b_rest = digamma_rest(b_t, b_correction)
            proxy_gap = digamma_gap(b_above, log_probs - log_top, b_rest, proxy_psi, proxy_psi_gap)
            fit = exponential(z - beyond) * scale * (gap - proxy_gap)
            local -= entropy_term(b_positive, b_s, b_correction)
            gradient = fit
            if OFFSET == 0:
                local += (b_positive + b_rest) - z
                gradient += (p - 1) * inverse_w
        lane_fit += tl.where(inside, fit, 0.0)
        if KIND != MEAN_KL:
            lane_local += tl.where(inside, local, 0.0)
        if MIXED:
            lane_shifted += tl.where(inside, shifted, 0.0)
            at_reference = tl.where(columns == reference, 1 - label_smoothing - other, 0.0)
            gradient = keep * gradient + mix_weight * (p - other - at_reference)
        if WANTS_GRADIENT:
            tl.store(gradient_ptr + columns, weight * gradient, mask=inside)

    # The value: what of it is large cancels in float64.
    loss = tl.sum(lane_fit.to(tl.float64))
    local = tl.sum(lane_local.to(tl.float64))
    if KIND == PROXY:
        if OFFSET == 1:
            entropy = local - row_entropy + (V - 1) * (1 - row_digamma)
        else:
            outside = V * (row_digamma - y - row_inverse)
            entropy = local - row_entropy - outside + (V - 1) * (1 - y)
        loss -= entropy * inverse_w64
    if KIND == END2:
        loss += local - row_entropy
        if OFFSET == 1:
            loss += (V - 1) * (1 - row_digamma)
        else:
            loss += y
    if KIND == FORWARD:
        local += proxy_entropy - row_entropy
        if OFFSET == 1:
            local += (V - 1) * (proxy_digamma - row_digamma)
        else:
            local += y - proxy_digamma - (V - 1)
        loss += local * inverse_w64
    if MIXED:
        log_probs_sum = tl.sum(lane_shifted.to(tl.float64)) - V * log_gap64
        log_prob = (reference_logit - largest).to(tl.float64) - log_gap64
        cross_entropy = -(1 - label_smoothing - other) * log_prob - other * log_probs_sum
        loss = keep * loss + mix_weight * cross_entropy
    tl.store(loss_ptr + row, weight * loss)
    tl.store(log_sum_ptr + row, log_sum)
    tl.store(largest_ptr + row, largest)
    if references_ptr is not None:
        tl.store(reference_logit_ptr + row, reference_logit)
