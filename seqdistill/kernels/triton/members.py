"""Kernels over the members: one softmax added to the ensemble's means, and the measures of them."""
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-def,no-untyped-call"
# mypy: disable-error-code="misc,untyped-decorator"

import triton
import triton.language as tl

from seqdistill.kernels.triton.functions import (
    LARGEST,
    LOWEST_EXPONENT,
    LOWEST_LOGIT,
    TINY,
    exponential,
)


@triton.jit
def add_member_kernel(
    logits_ptr,
    mean_probs_ptr,
    mean_log_probs_ptr,
    negative_entropy_ptr,
    V,
    logits_stride,
    mean_stride,
    inverse_temperature,
    weight,
    FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: means += weight · (p, ln p) and entropy = weight · Σ p ln p, p = softmax(l/T).

    FIRST: = in place of +=; the means hold nothing yet.
    """
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * logits_stride
    mean_probs_ptr += row * mean_stride
    mean_log_probs_ptr += row * mean_stride

    # Each lane keeps its own running max m, Σ e^{l−m} and Σ e^{l−m} (l−m): no reduction inside.
    largest = tl.full((BLOCK,), LOWEST_LOGIT, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    moment = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        z = tl.load(logits_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        z = tl.where(inside, z, -float("inf"))
        # The difference first: a constant that all logits share must not be rounded with them.
        step = (z - largest) * inverse_temperature
        # −|step|, kept finite: 0 · ∞ would be NaN where the exponential is 0 anyhow.
        down = tl.where(tl.abs(step) > -LOWEST_EXPONENT, LOWEST_EXPONENT * 2, -tl.abs(step))
        factor = exponential(down)
        moment = tl.where(step > 0, factor * (moment + down * total), moment + factor * down)
        total = tl.where(step > 0, total * factor + 1, total + factor)
        largest = tl.where(step > 0, z, largest)

    row_largest = tl.max(largest)
    down = (largest - row_largest) * inverse_temperature
    down = tl.where(down < LOWEST_EXPONENT, LOWEST_EXPONENT * 2, down)
    factor = exponential(down)
    row_total = tl.sum((factor * total).to(tl.float64))
    row_moment = tl.sum((factor * (moment + down * total)).to(tl.float64))
    log_total = tl.log(row_total)
    negative_entropy = row_moment / row_total - log_total
    tl.store(negative_entropy_ptr + row, weight * negative_entropy)

    share = (1 / row_total).to(tl.float32)
    log_total = log_total.to(tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        z = tl.load(logits_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        shifted = (z - row_largest) * inverse_temperature
        probs = weight * exponential(shifted) * share
        log_probs = weight * (shifted - log_total)
        if not FIRST:
            probs += tl.load(mean_probs_ptr + columns, mask=inside, other=0.0)
            log_probs += tl.load(mean_log_probs_ptr + columns, mask=inside, other=0.0)
        tl.store(mean_probs_ptr + columns, probs, mask=inside)
        tl.store(mean_log_probs_ptr + columns, log_probs, mask=inside)


@triton.jit
def ensemble_kernel(
    mean_probs_ptr,
    mean_log_probs_ptr,
    total_uncertainty_ptr,
    rmi_ptr,
    V,
    mean_stride,
    BLOCK: tl.constexpr,
):
    """One row: TU = −Σ p̄ ln p̄ and RMI = Σ p̄ (ln p̄ − ℓ̄), at least 0."""
    row = tl.program_id(0).to(tl.int64)
    mean_probs_ptr += row * mean_stride
    mean_log_probs_ptr += row * mean_stride
    entropy = tl.zeros((BLOCK,), tl.float32)
    gap = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        probs = tl.load(mean_probs_ptr + columns, mask=inside, other=0.0)
        log_probs = tl.load(mean_log_probs_ptr + columns, mask=inside, other=0.0)
        log_mean = tl.log(tl.where(probs < TINY, TINY, probs))
        entropy -= probs * log_mean
        # Differences first, then the sum: nearly equal members would cancel otherwise.
        # A piece that a member excludes gives a large number, and 0 where all exclude it.
        gap += probs * (log_mean - tl.where(log_probs < -LARGEST, -LARGEST, log_probs))
    rmi = tl.sum(gap.to(tl.float64))
    tl.store(total_uncertainty_ptr + row, tl.sum(entropy.to(tl.float64)))
    # The large number, too, may be rounded up; NaN passes both.
    rmi = tl.where(rmi > LARGEST, LARGEST, tl.where(rmi < 0, 0.0, rmi))
    tl.store(rmi_ptr + row, rmi)
