"""Rates of this machine, measured: products, bandwidth, and the element-wise part of the loss."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from seqdistill.kernels import MemberLogits, fused_distillation_loss
from seqdistill.planning.machines import Assumptions, Machine

# Rows, columns and depth of the products: of a feed-forward layer.
_PRODUCT = (1024, 2048, 512)
# Sentences, positions, width and inner width of a layer.
_LAYER = (16, 32, 512, 2048)
# Of the loss's logits: tokens, pieces.
_LOGITS = (128, 16_384)
_COPY_BYTES = 256 << 20
_ROUNDS = 5


def calibrate(given: Machine, assumptions: Assumptions) -> tuple[Machine, Assumptions]:
    """Return the machine with measured rates, and assumptions that take them as they are.

    Some seconds. Efficiencies of what is measured directly become 1; that of encoders and decoders
    is a whole layer's, element-wise work included.

    Args:
        given: whose rates are replaced; a CPU's also has this machine's memory.
        assumptions: whose efficiencies are replaced.
    """
    device = torch.device("cpu" if given.is_cpu else "cuda")
    rates = {dtype: product_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    bandwidth = copy_bandwidth(device)
    member, student = loss_seconds(device)
    memory = given.memory
    if given.is_cpu:
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    measured = replace(
        given,
        name=f"{given.name}, calibrated with {torch.get_num_threads()} thread(s)",
        memory=memory,
        flops32=rates[torch.float32],
        flops16=rates[torch.bfloat16],
        bandwidth=bandwidth,
    )
    return measured, replace(
        assumptions,
        body_efficiency=min(1.0, layer_rate(device) / rates[torch.float32]),
        activation_passes=0.0,
        adam_bytes=adam_seconds(device) * bandwidth,
        projection_efficiency=1.0,
        bandwidth_efficiency=1.0,
        member_seconds=member,
        student_seconds=student,
    )


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations a second of a matrix product."""
    rows, columns, depth = _PRODUCT
    a = torch.randn(rows, depth, device=device).to(dtype)
    b = torch.randn(columns, depth, device=device).to(dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    seconds = _seconds(lambda: torch.mm(a, b.t(), out=out), device)
    return 2 * rows * columns * depth / seconds


def layer_rate(device: torch.device) -> float:
    """Return operations a second of a transformer's layer, forward and backward, with dropout."""
    B, T, D, F = _LAYER
    layer = torch.nn.TransformerEncoderLayer(D, D // 64, F, batch_first=True, device=device)
    inputs = torch.randn(B, T, D, device=device, requires_grad=True)
    operations = 3 * (2 * B * T * (4 * D * D + 2 * D * F) + 4 * B * T * T * D)
    return operations / _seconds(lambda: layer(inputs).sum().backward(), device)


def adam_seconds(device: torch.device) -> float:
    """Return the seconds in which Adam updates a parameter."""
    count = 1 << 23
    parameter = torch.nn.Parameter(torch.zeros(count, device=device))
    parameter.grad = torch.ones_like(parameter)
    return _seconds(torch.optim.Adam([parameter], lr=1e-6).step, device) / count


def copy_bandwidth(device: torch.device) -> float:
    """Return bytes a second, read and written together, of a copy that no cache holds."""
    source = torch.ones(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / _seconds(lambda: target.copy_(source), device)


def loss_seconds(device: torch.device) -> tuple[float, float]:
    """Return the seconds of an entry of a member's logits, and of the student's, in the loss.

    From logits, without any product: what one member more costs, and what is left without them.
    """
    tokens, V = _LOGITS
    student = torch.randn(tokens, V, device=device, requires_grad=True)
    members = [torch.randn(tokens, V, device=device) for _ in range(4)]

    def loss(M: int) -> Callable[[], object]:
        return lambda: fused_distillation_loss(student, None, MemberLogits(members[:M]))

    few, many = _seconds(loss(2), device), _seconds(loss(4), device)
    entries = tokens * V
    # Timer noise can make either vanish; a thousandth of the whole stands for the least.
    member = max((many - few) / 2, few / 1000) / entries
    return member, max(few / entries - 2 * member, few / entries / 1000)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the median of a call's seconds; it has run once before."""
    call()
    found = []
    for _ in range(_ROUNDS):
        _wait(device)
        begin = time.process_time()
        call()
        _wait(device)
        found.append(time.process_time() - begin)
    return median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
