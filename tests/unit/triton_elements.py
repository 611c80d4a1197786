"""The mathematical pieces of the Triton kernels one by one, over a grid of arguments."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from seqdistill.kernels.triton.functions import (
    digamma_rest,
    entropy_term,
    exp_gamma,
    exponential,
    q_of,
    r_of,
)
from seqdistill.numerics import ExpGamma

_BLOCK = 1024
#: A few roundings of float32, or of a GPU's fast functions; float64 is as good as its polynomials.
ALLOWED = {"cpu": 5e-7, "cuda": 1e-6}


@triton.jit
def elements_kernel(z_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Write every piece at n arguments, a row each."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < n
    z = tl.load(z_ptr + columns, mask=inside, other=0.0)
    t, s, log_correction, small = exp_gamma(z)
    q = q_of(t)
    digamma = tl.maximum(z, 0.0) + digamma_rest(t, log_correction)
    tl.store(out_ptr + columns, small, mask=inside)
    tl.store(out_ptr + n + columns, t, mask=inside)
    tl.store(out_ptr + 2 * n + columns, s, mask=inside)
    tl.store(out_ptr + 3 * n + columns, log_correction, mask=inside)
    tl.store(out_ptr + 4 * n + columns, s * (1 + t * q), mask=inside)
    tl.store(out_ptr + 5 * n + columns, s * (1 - s * q), mask=inside)
    tl.store(out_ptr + 6 * n + columns, r_of(t), mask=inside)
    h = entropy_term(tl.maximum(z, 0.0), s, log_correction)
    tl.store(out_ptr + 7 * n + columns, h, mask=inside)
    tl.store(out_ptr + 8 * n + columns, exponential(z), mask=inside)
    tl.store(out_ptr + 9 * n + columns, digamma, mask=inside)


def element_errors(device: str) -> Iterator[tuple[str, float, float]]:
    """(name, error relative to the value, allowed) of every piece, float32 and float64."""
    for dtype, allowed in ((torch.float32, ALLOWED[device]), (torch.float64, 1e-10)):
        z = torch.linspace(-86, 86, 3001, dtype=torch.float64).to(dtype)
        out = torch.empty(10, len(z), dtype=dtype, device=device)
        grid = (triton.cdiv(len(z), _BLOCK),)
        elements_kernel[grid](z.to(device), out, len(z), BLOCK=_BLOCK)
        exact = z.double()
        e = ExpGamma(exact)
        expected = {
            "e^-|z|": (-exact.abs()).exp(),
            "t": e.t,
            "s": e.s,
            "log1p": (-exact.abs()).exp().log1p(),
            "u": e.trigamma,
            "g": e.trigamma_gap,
            "R": e.r,
            "h": e.entropy_term,
            "exp": exact.exp(),
        }
        for row, (name, right) in zip(out.cpu().double(), expected.items(), strict=False):
            yield f"{name} in {dtype}", float(((row - right) / right).abs().max()), allowed
        # ψ(1 + e^z) passes through 0.
        off = (out[9].cpu().double() - e.digamma) / e.digamma.abs().clamp_min(1)
        yield f"digamma in {dtype}", float(off.abs().max()), allowed
    ends = torch.tensor([-87.4, -1e30, -float("inf"), float("nan")])
    out = torch.empty(10, 4, device=device)
    elements_kernel[(1,)](ends.to(device), out, 4, BLOCK=_BLOCK)
    right = out[8, :3].tolist() == [0.0, 0.0, 0.0] and bool(out[8, 3].isnan())
    yield "exp at its ends", float(not right), 0.0
