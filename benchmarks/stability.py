"""Gradient error of one runaway logit against 100-digit arithmetic: ours, released, naive.

One row of a large vocabulary as of a student in training, but for one logit that goes from −50 to
120. The error is max_v |computed − exact| / max_v |exact|, of the gradient in the logits. Two
places for that logit: a piece that the ensemble finds likely (p̄ = 3/8) and one that it does not
(2⁻²⁰).
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import (
    BASELINE_COLOUR,
    COLOURS,
    base_parser,
    environment,
    new_figure,
    prepare,
    progress,
    provenance,
    refusals,
    text_table,
    write_results,
)
from benchmarks.ours import LOSS, usable_backends
from benchmarks.released_criterion import released_student_loss
from benchmarks.runaway import PLACES, at, exact_gradient, runaway_row
from seqdistill.errors import InputError
from seqdistill.kernels import fused_distillation_loss
from seqdistill.losses import proxy_dirichlet_loss
from seqdistill.targets import ProxyDirichletTarget

AIM = 2e-6

#: Rows evaluated at once by the formulas that hold many float64 temporaries.
_ROWS = 16

#: (logits (n, V), p̄ (V), RMI) → gradient (n, V)
Method = Callable[[Tensor, Tensor, float], Tensor]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = base_parser(
        "stability",
        __doc__ or "",
        "python -m benchmarks.stability --overwrite",
    )
    parser.add_argument("--vocabulary", type=int, default=40_000, metavar="V", help="(%(default)s)")
    parser.add_argument("--lowest", type=int, default=-50, help="runaway logit (%(default)s)")
    parser.add_argument("--highest", type=int, default=120, help="runaway logit (%(default)s)")
    parser.add_argument("--step", type=int, default=1, help="between them (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    given = parser.parse_args(arguments)
    with refusals(parser):
        stem = prepare(given, "stability" + ("-cuda" if given.device == "cuda" else ""))
        if given.vocabulary < 8:
            raise InputError(f"expected a vocabulary of at least 8, got {given.vocabulary}")
        if given.step < 1 or given.lowest > given.highest:
            raise InputError("expected --lowest up to --highest in steps of at least 1")
        points = list(range(given.lowest, given.highest + 1, given.step))
        command = ["python", "-m", "benchmarks.stability", *(arguments or sys.argv[1:])]
        record = environment(given.device, command)
        methods = all_methods(given.device)
        record |= {
            "what": "relative gradient error of a row with one runaway logit",
            "V": given.vocabulary,
            "aim": AIM,
            "curves": curves(methods, given.vocabulary, points, given.device),
        }
        rows = [
            {"place": curve["place"], "method": curve["method"], "z": z, "error": error}
            for curve in record["curves"]
            for z, error in zip(curve["z"], curve["error"], strict=True)
        ]
        write_results(stem, record, rows, draw(record))
    print(summary(record))
    return 0


def all_methods(device: str) -> dict[str, Method]:
    """Return what is compared by name; ours first."""
    backends, refused = usable_backends(device)
    for name, reason in refused.items():
        progress(f"without backend {name}: {reason}")
    methods: dict[str, Method] = {f"ours, {name}, float32": fused(name) for name in backends}
    methods["ours, unfused, float32"] = unfused
    methods["released, float64"] = released(torch.float64)
    methods["released, float32"] = released(torch.float32)
    methods["naive, float32"] = naive
    return methods


def curves(
    methods: dict[str, Method], V: int, points: Sequence[int], device: str
) -> list[dict[str, Any]]:
    """Return the error of every method at every point, None where its gradient is not finite.

    Args:
        methods: by name.
        V: vocabulary entries.
        points: values of the runaway logit.
        device: where the methods compute.
    """
    found = []
    for place in PLACES:
        row = runaway_row(V, 0.0, place)
        rows = [at(row, float(z)) for z in points]
        progress(f"{place} piece: exact gradients of {len(points)} rows")
        exact = torch.stack([one.spread(exact_gradient(one)) for one in rows])
        logits = torch.stack([one.spread(one.logits) for one in rows]).float().to(device)
        mean_probs = row.spread(row.probs).float().to(device)
        scale = exact.abs().amax(-1)
        for name, method in methods.items():
            progress(f"{place} piece: {name}")
            gradient = torch.cat(
                [method(part, mean_probs, row.rmi).cpu() for part in torch.split(logits, _ROWS)]
            )
            error = (gradient.double() - exact).abs().amax(-1) / scale
            found.append(
                {
                    "place": place,
                    "method": name,
                    "z": list(points),
                    "error": [float(e) if e.isfinite() else None for e in error],
                }
            )
    return found


def fused(backend: str) -> Method:
    """Return the fused loss on a backend, logits in."""

    def gradient(logits: Tensor, mean_probs: Tensor, rmi: float) -> Tensor:
        leaf = logits.clone().requires_grad_()
        target = _proxy(leaf, mean_probs, rmi)
        fused_distillation_loss(leaf, None, target, loss=LOSS, backend=backend).loss_sum.backward()
        return _gradient_of(leaf)

    return gradient


def unfused(logits: Tensor, mean_probs: Tensor, rmi: float) -> Tensor:
    """Return the gradient of the loss that takes whole tensors."""
    leaf = logits.clone().requires_grad_()
    loss, _ = proxy_dirichlet_loss(leaf, _proxy(leaf, mean_probs, rmi), normalisation="total")
    loss.backward()
    return _gradient_of(leaf)


def released(dtype: torch.dtype) -> Method:
    """Return the research code's formula, its epsilons included, in a precision."""

    def gradient(logits: Tensor, mean_probs: Tensor, rmi: float) -> Tensor:
        n, V = logits.shape
        leaf = logits.clone().requires_grad_()
        precision = leaf.new_full((1, n), (V - 1) / (2 * rmi))
        probs = mean_probs.expand(1, n, V)
        try:
            released_student_loss(leaf.unsqueeze(0), probs, precision, dtype=dtype).backward()
        except FloatingPointError:
            if n == 1:
                return torch.full_like(logits, float("nan"))
            # Its checks stop a batch for one row; the others are looked at one by one.
            return torch.cat([gradient(one, mean_probs, rmi) for one in logits.split(1)])
        return _gradient_of(leaf)

    return gradient


def naive(logits: Tensor, mean_probs: Tensor, rmi: float) -> Tensor:
    """Return autograd's gradient of the loss as one would write it down, in the logits' dtype."""
    V = logits.shape[-1]
    leaf = logits.clone().requires_grad_()
    alpha = leaf.exp() + 1
    total = alpha.sum(-1, keepdim=True)
    expected_log = torch.digamma(alpha) - torch.digamma(total)
    log_normaliser = torch.lgamma(alpha).sum(-1) - torch.lgamma(total).squeeze(-1)
    entropy = log_normaliser - ((alpha - 1) * expected_log).sum(-1)
    loss = -(mean_probs * expected_log).sum(-1) - entropy / ((V - 1) / (2 * rmi) + V)
    loss.sum().backward()
    return _gradient_of(leaf)


def draw(record: dict[str, Any]) -> Any:
    """Return the figure: one pair of axes a place, error over z on a logarithmic scale."""
    figure, axes = new_figure(len(PLACES), size=(5.2, 3.8))
    others = {"released, float64": "-", "released, float32": ":", "naive, float32": "--"}
    for one, place in zip(axes[0], PLACES, strict=True):
        chosen = [curve for curve in record["curves"] if curve["place"] == place]
        for number, curve in enumerate(chosen):
            # Not finite is drawn as a gap, an exact result at the lower edge.
            error = [float("nan") if e is None else min(max(e, 1e-9), 1e3) for e in curve["error"]]
            name = curve["method"]
            is_ours = name not in others
            one.plot(
                curve["z"],
                error,
                label=name,
                color=COLOURS[number % len(COLOURS)] if is_ours else BASELINE_COLOUR,
                linestyle="-" if is_ours else others[name],
                linewidth=1.3 if is_ours else 1.6,
            )
        one.axhline(AIM, color="#000000", linewidth=0.8, linestyle=(0, (1, 2)))
        one.annotate(f"aim {AIM:g}", (record["curves"][0]["z"][0], AIM * 1.3), fontsize=8)
        one.set_yscale("log")
        one.set_ylim(1e-9, 2e3)
        one.set_xlabel("the runaway logit z")
        one.set_title(f"the {place} piece, V = {record['V']:,}", fontsize=10)
    axes[0][0].set_ylabel("gradient error, max / max")
    axes[0][0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.0, 0.93))
    return figure


def summary(record: dict[str, Any]) -> str:
    """Return the table: largest error of each method, and from which z on it is off by 1 %."""
    rows = []
    for curve in record["curves"]:
        errors = [float("inf") if e is None else e for e in curve["error"]]
        wrong = [z for z, e in zip(curve["z"], errors, strict=True) if e > 0.01]
        worst = max(errors)
        mark = ""
        if curve["method"].startswith("ours"):
            mark = "reached" if worst < record["aim"] else "MISSED"
        rows.append(
            (
                curve["method"],
                curve["place"],
                f"{worst:.1e}" if worst < float("inf") else "not finite",
                str(wrong[0]) if wrong else "never",
                mark,
            )
        )
    header = ("gradient error", "runaway piece", "largest", "off by 1 % from z", "aim 2e-6")
    return text_table(header, rows) + "\n" + provenance(record)


def _proxy(logits: Tensor, mean_probs: Tensor, rmi: float) -> ProxyDirichletTarget:
    n, V = logits.shape
    inverse = torch.full((n,), 2 * rmi / (V - 1), device=logits.device)
    return ProxyDirichletTarget(mean_probs.expand(n, V), inverse, "mkl")


def _gradient_of(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        raise RuntimeError("the loss left no gradient")
    return leaf.grad


if __name__ == "__main__":
    sys.exit(main())
