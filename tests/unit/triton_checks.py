"""What the Triton kernels are held to, on any device: ``python -m tests.unit.triton_checks``.

Triton's interpreter has to be chosen before triton is imported, so tests of it run this module in a
process of its own and read one JSON object a line: the name of a check, its error and what is
allowed. On a CUDA device the same checks run in the tests' process.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdistill.kernels import DistillationLoss, MemberProjections, fused_distillation_loss
from seqdistill.kernels.backend import KINDS, RowLoss, RowTargets
from seqdistill.kernels.eager import EagerRows
from seqdistill.kernels.triton import triton_status
from seqdistill.kernels.triton.backend import TritonRows
from seqdistill.losses.proxy_dirichlet import inverse_normalisation
from seqdistill.targets import proxy_dirichlet_target
from tests.reference import float64
from tests.unit.loss_cases import member_log_probs, statistics_of, student_logits

# Budgets of tests/unit/test_losses.py: beside naive float64, and for logits of ±80.
MODERATE, WIDE = 1e-5, 1e-4
SMALLEST_VALUE = 0.01
#: The same arithmetic in another order: twice eager's error, or a few roundings. A GPU's fast
#: exponential, logarithm and division are good to 2e-7 each.
TIMES_EAGER, ROUNDINGS = 2.0, {"cpu": 3e-7, "cuda": 1e-6}
#: The same arithmetic compiled for other strides or dtypes; exactly the same in the interpreter.
SAME = {"cpu": 0.0, "cuda": 3e-7}


@dataclass(frozen=True)
class Result:
    """One comparison; NaN as an error is a failure too.

    Attributes:
        group: the test that it belongs to.
        name: what was compared.
        error: what was found.
        allowed: what may be found.
    """

    group: str
    name: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


@dataclass(frozen=True)
class Rows:
    """Student logits with the targets of the same rows, float32."""

    logits: Tensor
    targets: RowTargets

    @staticmethod
    def make(teacher: str, logits: str, V: int, normalisation: str, device: str) -> "Rows":
        statistics = statistics_of(teacher, V, N=3)
        target = proxy_dirichlet_target(statistics)
        inverse = target.inverse_precision
        targets = RowTargets(
            mean_probs=target.mean_probs.to(device),
            mean_log_probs=statistics.mean_log_probs.to(device),
            inverse_w=inverse_normalisation(inverse, V, normalisation).to(device),
            inverse_precision=inverse.to(device),
            references=torch.tensor([0, V - 1, V // 2], device=device),
            row_weight=torch.tensor([1.0, 0.0, 2.5], device=device),
        )
        z = student_logits(logits, target)
        return Rows((z * 3 if logits == "small" else z).to(device), targets)

    def to(self, dtype: torch.dtype) -> "Rows":
        cast = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in vars(self.targets).items()
        }
        return Rows(self.logits.to(dtype), RowTargets(**cast))

    def run(self, backend: Any, loss: RowLoss, wants_gradient: bool = True) -> tuple[Any, Tensor]:
        """Return what the backend returns, and what it leaves in the logits."""
        logits = self.logits.clone()
        return backend.student_rows_(logits, loss, self.targets, wants_gradient), logits


def losses() -> Iterator[RowLoss]:
    """Every kind and offset, alone and mixed with smoothed cross-entropy."""
    for kind in KINDS:
        for offset in (1.0,) if kind == "mean_kl" else (1.0, 0.0):
            yield RowLoss(kind, offset)
            yield RowLoss(kind, offset, mix_weight=0.3, label_smoothing=0.1)


def naive(rows: Rows, loss: RowLoss) -> tuple[Tensor, Tensor]:
    """Value (n) and gradient (n, V) from torch's special functions in float64."""
    t = rows.targets

    def value(z: Tensor) -> Tensor:
        if loss.kind == "mean_kl":
            distilled = float64.mean_kl(z, t.mean_probs)
        elif loss.kind == "end2":
            distilled = float64.end2(z, t.mean_log_probs, loss.offset)
        elif loss.kind == "proxy_dirichlet":
            # That form takes 1/w itself as the precision's inverse.
            distilled = float64.proxy_dirichlet(z, t.mean_probs, t.inverse_w, loss.offset)
        else:
            distilled = float64.proxy_dirichlet_forward(
                z, t.mean_probs, t.inverse_precision, loss.offset
            ) * (t.inverse_w.double() / t.inverse_precision.double())
        # torch spreads ε over all V pieces, the reference included.
        V = z.shape[-1]
        smoothing = loss.label_smoothing * V / (V - 1)
        entropy = F.cross_entropy(z, t.references, reduction="none", label_smoothing=smoothing)
        mixed = (1 - loss.mix_weight) * distilled + loss.mix_weight * entropy
        return mixed * t.row_weight.double()

    return float64.value_and_gradient(value, rows.logits)


def errors(found: tuple[Any, Tensor], value: Tensor, gradient: Tensor) -> tuple[float, float]:
    """Return the largest relative error of a row's value, and of its gradient by norm.

    EnD²'s value may leave float32 where its gradient does not; then only the gradient counts.
    """
    off = (found[0].loss.double() - value).abs() / value.abs().clamp_min(SMALLEST_VALUE)
    off = off.masked_fill(value.abs() > torch.finfo(torch.float32).max, 0.0)
    # A row of weight 0 has no gradient to be relative to.
    norms = gradient.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return largest(off), largest((found[1].double() - gradient).norm(dim=-1) / norms)


def largest(values: Tensor) -> float:
    """Return the maximum, NaN if any is NaN."""
    return float(values.detach().max())


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest error relative to the value or 1; equal infinities have none."""
    found, expected = found.double(), expected.double()
    difference = (found - expected).abs() / expected.abs().clamp_min(1)
    return largest(difference.masked_fill(found == expected, 0.0))


def student_checks(device: str, sizes: tuple[int, ...]) -> Iterator[Result]:
    """Every loss against naive float64 and against eager, for moderate and for wide logits."""
    triton, eager = TritonRows(), EagerRows()
    for V in sizes:
        for logits, teacher, normalisation in (
            ("small", "peaked", "proxy"),
            ("widest", "apart", "total"),
        ):
            rows = Rows.make(teacher, logits, V, normalisation, device)
            exact = rows.to(torch.float64)
            for loss in losses():
                # A mixed loss shows its parts; the interpreter takes 0.2 s a loss.
                if bool(loss.mix_weight) != (logits == "small"):
                    continue
                name = f"V={V} {logits} {loss.kind} offset={loss.offset} mix={loss.mix_weight}"
                if logits == "small":
                    value, gradient = naive(rows, loss)
                else:
                    done, gradient = exact.run(eager, loss)
                    value = done.loss
                found = rows.run(triton, loss)
                own = errors(found, value, gradient)
                plain = errors(rows.run(eager, loss), value, gradient)
                budget = MODERATE if logits == "small" else WIDE
                for what, mine, its in zip(("value", "gradient"), own, plain, strict=True):
                    yield Result("student", f"{name}: {what}", mine, budget)
                    # Where eager overflows, only the roundings are left to compare with.
                    allowed = TIMES_EAGER * (its if math.isfinite(its) else 0.0) + ROUNDINGS[device]
                    yield Result("no_worse_than_eager", f"{name}: {what}", mine, allowed)
                z = rows.logits.double()
                known = z.gather(-1, rows.targets.references[:, None])[:, 0]
                for what, mine, expected in (
                    ("log_sum", found[0].log_sum, z.logsumexp(-1)),
                    ("reference_logit", found[0].reference_logit, known),
                    ("largest_logit", found[0].largest_logit, z.amax(-1)),
                ):
                    yield Result("student", f"{name}: {what}", apart(mine, expected), 2e-7)


def runaway_checks(device: str, V: int) -> Iterator[Result]:
    """One logit of −80 … 120 beside ordinary ones, another in each row."""
    triton, eager = TritonRows(), EagerRows()
    for runaway in ((-80.0, -50.0, 60.0), (80.0, 89.0, 120.0)):
        for loss in losses():
            rows = Rows.make("peaked", "small", V, "proxy", device)
            rows.logits[:, 3] = torch.tensor(runaway, device=device)
            rows.targets.row_weight.fill_(1.0)
            if loss.mix_weight:
                continue
            if max(runaway) > 80:
                # These grow with e^z and e^z/w: the first leaves float32 at 88.
                if loss.kind == "end2":
                    continue
                if loss.kind == "proxy_dirichlet_forward":
                    rows.targets.inverse_w.fill_(1e-30)
                    rows.targets.inverse_precision.fill_(1e-30)
            done, gradient = rows.to(torch.float64).run(eager, loss)
            value, slope = errors(rows.run(triton, loss), done.loss, gradient)
            name = f"z={runaway} {loss.kind} offset={loss.offset}"
            yield Result("runaway", f"{name}: value", value, 2e-6)
            yield Result("runaway", f"{name}: gradient", slope, 2e-6)


def dtype_checks(device: str, V: int) -> Iterator[Result]:
    """Half-precision logits are read exactly, computed in float32, and rounded once."""
    triton = TritonRows()
    # Triton's interpreter cuts bfloat16 off; a GPU rounds it.
    of_bfloat16 = 2**-8 if device == "cuda" else 2**-7
    for dtype, rounding in ((torch.bfloat16, of_bfloat16), (torch.float16, 2**-11)):
        rows = Rows.make("peaked", "small", V, "proxy", device)
        half = Rows(rows.logits.to(dtype), rows.targets)
        single = Rows(half.logits.float(), rows.targets)
        for loss in (RowLoss("proxy_dirichlet"), RowLoss("mean_kl", mix_weight=0.2)):
            (done, gradient), (expected, slope) = half.run(triton, loss), single.run(triton, loss)
            name = f"{dtype} {loss.kind}"
            yield Result("dtypes", f"{name}: value", apart(done.loss, expected.loss), SAME[device])
            yield Result("dtypes", f"{name}: dtype", float(gradient.dtype != dtype), 0.0)
            # 6e-8: half of float16's smallest number.
            off = (gradient.float() - slope).abs() - 3e-8 * (dtype == torch.float16)
            off = off / slope.abs().clamp_min(torch.finfo(torch.float32).tiny)
            yield Result("dtypes", f"{name}: gradient", largest(off), rounding)


def layout_checks(device: str, V: int) -> Iterator[Result]:
    """Rows of a wider buffer, no gradient, no rows, and targets that a loss does not need."""
    triton = TritonRows()
    rows = Rows.make("apart", "wide", V, "proxy", device)
    loss = RowLoss("proxy_dirichlet", mix_weight=0.3, label_smoothing=0.1)
    expected, slope = rows.run(triton, loss)

    wide = torch.full((3, V + 5), 7.0, device=device)
    wide[:, :V] = rows.logits
    probs = torch.full((3, V + 3), 0.5, device=device)
    probs[:, :V] = rows.targets.mean_probs
    every_other = rows.targets.row_weight.repeat_interleave(2)[::2]
    strided = RowTargets(
        **{**vars(rows.targets), "mean_probs": probs[:, :V], "row_weight": every_other}
    )
    done = triton.student_rows_(wide[:, :V], loss, strided, True)
    yield Result("layout", "strided value", apart(done.loss, expected.loss), SAME[device])
    yield Result("layout", "strided gradient", apart(wide[:, :V], slope), SAME[device])
    yield Result("layout", "beside the rows", apart(wide[:, V:], torch.tensor(7.0)), 0.0)

    turned = rows.targets.mean_probs.double().T.contiguous().T
    other = Rows(rows.logits, RowTargets(**{**vars(rows.targets), "mean_probs": turned}))
    done, gradient = other.run(triton, loss)
    yield Result("layout", "float64 target by columns", apart(gradient, slope), SAME[device])

    done, _ = rows.run(triton, loss, wants_gradient=False)
    yield Result("layout", "value alone", apart(done.loss, expected.loss), SAME[device])

    given = rows.targets
    bare = Rows(rows.logits, RowTargets(mean_probs=given.mean_probs, inverse_w=given.inverse_w))
    done, gradient = bare.run(triton, RowLoss("proxy_dirichlet"))
    alone, _ = bare.run(EagerRows(), RowLoss("proxy_dirichlet"))
    yield Result("layout", "without weights", apart(done.loss, alone.loss), 1e-6)
    yield Result("layout", "no reference", float(done.reference_logit is not None), 0.0)

    # A stored target may sum to less than 1, and the exact derivative knows.
    lighter = Rows(rows.logits, RowTargets(mean_probs=given.mean_probs * 0.9))
    done, gradient = lighter.run(triton, RowLoss("mean_kl"))
    eager, slope = lighter.run(EagerRows(), RowLoss("mean_kl"))
    yield Result("layout", "mass below 1: value", apart(done.loss, eager.loss), 1e-6)
    yield Result("layout", "mass below 1: gradient", apart(gradient, slope), 1e-6)

    none = Rows(rows.logits[:0], RowTargets(given.mean_probs[:0], inverse_w=given.inverse_w[:0]))
    done, _ = none.run(triton, RowLoss("proxy_dirichlet"))
    yield Result("layout", "no rows", float(done.loss.shape != (0,)), 0.0)

    unknown = torch.tensor([0, V, -1], device=device)
    lost = Rows(rows.logits, RowTargets(**{**vars(given), "references": unknown}))
    done, _ = lost.run(triton, RowLoss("mean_kl", mix_weight=0.5))
    nan = done.loss.isnan().tolist() == [False, True, True]
    yield Result("layout", "references that are no piece", float(not nan), 0.0)


def driver_checks(device: str, V: int) -> Iterator[Result]:
    """Through the fused loss: members' features in, gradients of features and projection out."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    members = MemberProjections([normal(6, 5) for _ in range(3)], [normal(V, 5) for _ in range(3)])
    features, weight = normal(6, 4), normal(V, 4)
    mask = torch.tensor([True, True, False, True, True, True], device=device)
    references = torch.arange(6, device=device)
    for kind in KINDS:
        loss = DistillationLoss(kind, mix_weight=0.2, label_smoothing=0.1)
        results = []
        for backend in ("triton", "eager"):
            h, W = (x.clone().requires_grad_() for x in (features, weight))
            done = fused_distillation_loss(
                h,
                W,
                members,
                mask,
                loss=loss,
                references=references,
                backend=backend,
                chunk_tokens=3,
            )
            done.loss_sum.backward()
            rmi = done.rows.reverse_mutual_information
            results.append((done.loss_sum, h.grad, W.grad, rmi))
        for what, mine, its in zip(("loss", "dh", "dW", "RMI"), *results, strict=True):
            # By norm: EnD²'s gradient is of size e^z, and cancels in single entries of dW.
            error = float((mine - its).detach().norm() / its.detach().norm())
            yield Result("driver", f"{kind}: {what}", error, ROUNDINGS[device])


def function_checks(device: str) -> Iterator[Result]:
    """The pieces that the kernels are made of."""
    # Here and not above: the tests' own process imports this module, and need not import triton.
    from tests.unit.triton_elements import element_errors

    for name, error, allowed in element_errors(device):
        yield Result("functions", name, error, allowed)


def refusal_checks(device: str) -> Iterator[Result]:
    """What the kernels cannot walk over is refused before a launch."""
    triton = TritonRows()
    rows = Rows.make("apart", "small", 17, "proxy", device)
    given = rows.targets
    loss = RowLoss("proxy_dirichlet")
    for name, logits, targets, asked in (
        ("float64", rows.logits.double(), given, loss),
        ("columns apart", rows.logits.T.contiguous().T, given, loss),
        ("no target", rows.logits, RowTargets(inverse_w=given.inverse_w), loss),
        ("no 1/w", rows.logits, RowTargets(given.mean_probs), loss),
        ("no 1/precision", rows.logits, RowTargets(given.mean_probs, inverse_w=given.inverse_w),
         RowLoss("proxy_dirichlet_forward")),
        ("no references", rows.logits, RowTargets(given.mean_probs), RowLoss("mean_kl", 1.0, 0.1)),
    ):  # fmt: skip
        try:
            triton.student_rows_(logits.clone(), asked, targets, True)
        except TypeError:
            refused = True
        else:
            refused = False
        yield Result("refusals", name, float(not refused), 0.0)


def member_checks(device: str, sizes: tuple[int, ...]) -> Iterator[Result]:
    """Members streamed into means, entropies and measures, against float64."""
    for V in sizes:
        for teacher, temperature, constant in (
            ("flat", 1.0, 0.0),
            ("peaked", 1.0, 90.0),
            ("apart", 2.5, -90.0),
        ):
            members = member_log_probs(teacher, V, N=2, dtype=torch.float64).to(device)
            # A piece that all exclude; in extreme_member_checks one that only some do.
            members[:, 1, V - 1] = -math.inf
            logits = (members + constant).float()
            found = ensemble(TritonRows(), logits, 1 / temperature)
            plain = ensemble(EagerRows(), logits, 1 / temperature)
            exact = ensemble(EagerRows(), logits.double(), 1 / temperature)
            p = torch.log_softmax(logits.double() / temperature, -1).exp()
            means = (p.mean(0), torch.xlogy(p, p).sum(-1).mean(0))
            name = f"V={V} {teacher}"
            yield Result("members", f"{name}: mean", apart(found[0], means[0]), 1e-6)
            yield Result("members", f"{name}: entropy", apart(found[2], means[1]), 1e-6)
            excluded = float((found[0][1, V - 1] != 0) | (found[1][1, V - 1] != -math.inf))
            yield Result("members", f"{name}: excluded piece", excluded, 0.0)
            for what, mine, its, right in zip(
                ("mean", "mean log", "entropy", "TU", "RMI"), found, plain, exact, strict=True
            ):
                allowed = TIMES_EAGER * apart(its, right) + ROUNDINGS[device]
                yield Result("members", f"{name}: {what} as eager", apart(mine, right), allowed)
    yield from extreme_member_checks(device)


def extreme_member_checks(device: str) -> Iterator[Result]:
    """NaN stays in its row; a member that excludes what another allows; bfloat16 logits."""
    logits = member_log_probs("apart", 17, N=3).to(device)
    clean = ensemble(TritonRows(), logits, 1.0)
    broken = logits.clone()
    broken[1, 1, 5] = math.nan
    found = ensemble(TritonRows(), broken, 1.0)
    nan = found[2].isnan().tolist() == [False, True, False]
    yield Result("members", "NaN marks its row", float(not nan), 0.0)
    for mine, expected in zip(found, clean, strict=True):
        yield Result("members", "NaN leaves other rows", apart(mine[::2], expected[::2]), 0.0)

    certain = torch.eye(17, device=device)[:3, None].log()
    found = ensemble(TritonRows(), certain, 1.0)
    # Rounded up in a sum, the largest number has to stay one.
    above = torch.full_like(found[0], 1 / 17) * 1.001
    never = torch.full_like(above, -math.inf)
    _, rmi = TritonRows().ensemble_rows(above, never, found[2])
    yield Result("members", "largest RMI", float(rmi.item() != torch.finfo(rmi.dtype).max), 0.0)
    yield Result("members", "contradicting members' TU", abs(found[3].item() - math.log(3)), 1e-6)
    # Finite, as of eager: the largest number stands for −ln 0.
    large = 1e37 < found[4].item() < math.inf
    yield Result("members", "contradicting members' RMI", float(not large), 0.0)

    half = logits.bfloat16()
    found, expected = (ensemble(TritonRows(), m, 0.5) for m in (half, half.float()))
    for mine, its in zip(found, expected, strict=True):
        yield Result("members", "bfloat16", apart(mine, its), SAME[device])
    agreeing = logits[:1].expand(3, 3, 17)
    rmi = ensemble(TritonRows(), agreeing, 1.0)[4]
    yield Result("members", "agreeing members' RMI", largest(rmi), 1e-6)
    yield Result("members", "no RMI below 0", -float(rmi.min()), 0.0)


def ensemble(backend: Any, members: Tensor, inverse_temperature: float) -> tuple[Tensor, ...]:
    """Return mean probs, mean log probs, negative entropy, TU and RMI of (M, n, V) logits."""
    M, n, V = members.shape
    dtype = torch.float64 if members.dtype == torch.float64 else torch.float32
    # The first member begins the sums, whatever they hold.
    sums = [torch.full(s, torch.nan, dtype=dtype, device=members.device) for s in ((n, V),) * 2]
    probs, log_probs = sums
    each = torch.full((M, n), torch.nan, dtype=dtype, device=members.device)
    backend.add_members_(
        list(members.clone()), inverse_temperature, 1 / M, probs, log_probs, each, is_first=True
    )
    entropy = each.sum(0)
    return probs, log_probs, entropy, *backend.ensemble_rows(probs, log_probs, entropy)


def all_checks(device: str, sizes: tuple[int, ...]) -> Iterator[Result]:
    """Run everything; sizes of the vocabulary from small to large."""
    yield from function_checks(device)
    yield from student_checks(device, sizes)
    yield from runaway_checks(device, sizes[0])
    yield from dtype_checks(device, sizes[1])
    yield from layout_checks(device, sizes[1])
    yield from driver_checks(device, sizes[1])
    yield from refusal_checks(device)
    yield from member_checks(device, sizes)


def main() -> None:
    """Print every result as a line of JSON; the interpreter has to be set from outside."""
    before = "triton" in sys.modules
    usable, reason = triton_status()
    imported = "triton" in sys.modules and not before
    launched, launch_reason = triton_status(launch=True)
    print(json.dumps({"status": [usable, reason, imported, launched, launch_reason]}))
    for result in all_checks("cpu", (17, 257, 2100)):
        print(json.dumps(vars(result)))


if __name__ == "__main__":
    main()
