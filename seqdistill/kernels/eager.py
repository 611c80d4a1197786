"""The row operations in plain PyTorch: runs anywhere, and is what the other backends are held to.

The formulas are those of :mod:`seqdistill.losses`. The common cases (``proxy_dirichlet`` and
``end2`` with offset 1, ``mean_kl``) are written again over a workspace that is allocated once:
fresh temporaries of this size cost more in page faults than the mathematics. The rest goes through
the row functions of the losses themselves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seqdistill.kernels.backend import RowLoss, RowTargets, StudentRows
from seqdistill.losses.end2 import end2_rows
from seqdistill.losses.mean_kl import mean_kl_rows
from seqdistill.losses.proxy_dirichlet import forward_rows, reverse_rows
from seqdistill.losses.rows import RowFunction
from seqdistill.numerics import DirichletTerms
from seqdistill.numerics.exp_gamma import polynomials
from seqdistill.numerics.polynomial import horner

# Rows × vocabulary worked on at once: a dozen temporaries of 384 KiB (float32) are near enough.
_BLOCK_ELEMENTS = 96 << 10

# Views of the workspace that are kept: to make one costs as much as a small operation.
_VIEWS = 256


class EagerRows:
    """Row operations by PyTorch's own kernels, float32 or float64, on any device."""

    name = "eager"

    def __init__(self) -> None:
        self._scratch: dict[str, Tensor] = {}
        self._views: dict[tuple[str, torch.Size, torch.dtype, torch.device], Tensor] = {}

    def add_members_(
        self,
        logits: Sequence[Tensor],
        inverse_temperature: float,
        weight: float,
        mean_probs: Tensor,
        mean_log_probs: Tensor,
        negative_entropies: Tensor,
        is_first: bool = False,
    ) -> None:
        """See :class:`~seqdistill.kernels.backend.RowBackend`."""
        # What is one number a row is computed for all at once: tiny tensors cost a call each.
        totals = torch.empty_like(negative_entropies)
        for rows in self._blocks(mean_probs):
            sums = mean_probs[rows], mean_log_probs[rows]
            numbers = totals[:, rows].unbind(), negative_entropies[:, rows].unbind()
            for m, (member, total, weighted) in enumerate(zip(logits, *numbers, strict=True)):
                places = *sums, total, weighted
                self._add_member(
                    member[rows], inverse_temperature, weight, *places, is_first and m == 0
                )
            shift = totals[:, rows].log().sum(0).mul_(weight)
            sums[1].sub_(shift.unsqueeze(-1))
        negative_entropies.div_(totals)
        for member, gaps in zip(logits, negative_entropies, strict=True):
            for excluding in _few(gaps.isnan(), mean_probs.shape[-1]):
                # 0 · −∞ is 0 here: a piece that a member excludes has no entropy.
                z = member[excluding].to(mean_probs.dtype)
                z = (z - z.amax(-1, keepdim=True)) * inverse_temperature
                exps = z.exp()
                lowest = torch.finfo(z.dtype).min
                gaps[excluding] = (z.clamp_min(lowest) * exps).sum(-1) / exps.sum(-1)
        negative_entropies.sub_(totals.log_()).mul_(weight)

    def _add_member(
        self,
        logits: Tensor,
        inverse_temperature: float,
        weight: float,
        mean_probs: Tensor,
        mean_log_probs: Tensor,
        total: Tensor,
        weighted: Tensor,
        is_first: bool,
    ) -> None:
        """Add z − max z for ln p, and put Σ e and Σ e ln e, e = e^(z − max z), where they go."""
        z = self._gap("z", logits, logits.amax(-1, keepdim=True), mean_probs.dtype)
        if inverse_temperature != 1:
            z.mul_(inverse_temperature)
        exps = torch.exp(z, out=self._like("a", z))
        torch.sum(exps, -1, out=total)
        torch.sum(torch.mul(exps, z, out=self._like("b", z)), -1, out=weighted)
        share = torch.reciprocal(total).mul_(weight).unsqueeze(-1)
        if is_first:
            torch.mul(exps, share, out=mean_probs)
            torch.mul(z, weight, out=mean_log_probs)
        else:
            mean_probs.addcmul_(exps, share)
            mean_log_probs.add_(z, alpha=weight)

    def ensemble_rows(
        self, mean_probs: Tensor, mean_log_probs: Tensor, negative_entropy: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`~seqdistill.kernels.backend.RowBackend`."""
        finfo = torch.finfo(mean_probs.dtype)
        total_uncertainty = torch.empty_like(negative_entropy)
        rmi = torch.empty_like(negative_entropy)
        for rows in self._blocks(mean_probs):
            probs = mean_probs[rows]
            log_mean = torch.clamp_min(probs, finfo.tiny, out=self._like("a", probs)).log_()
            terms = torch.mul(probs, log_mean, out=self._like("b", probs))
            total_uncertainty[rows] = -terms.sum(-1)
            # Differences first, then the sum: nearly equal members would cancel otherwise.
            gap = log_mean.sub_(mean_log_probs[rows]).mul_(probs)
            rmi[rows] = gap.sum(-1).clamp_min_(0.0)
        for excluding in _few(rmi.isfinite().logical_not_(), mean_probs.shape[-1]):
            # A piece that a member excludes: 0 · ∞ is 0 here, and p̄ · ∞ the largest number.
            probs, expected = mean_probs[excluding], mean_log_probs[excluding]
            gap = probs.clamp_min(finfo.tiny).log_() - expected.clamp_min(finfo.min)
            rmi[excluding] = (probs * gap).sum(-1).clamp_min_(0.0)
        return total_uncertainty, rmi

    def student_rows_(
        self,
        logits: Tensor,
        loss: RowLoss,
        targets: RowTargets,
        wants_gradient: bool,
        gradient: Tensor | None = None,
    ) -> StudentRows:
        """See :class:`~seqdistill.kernels.backend.RowBackend`."""
        if loss.mix_weight:
            _given(targets.references)
        out = logits if gradient is None else gradient
        dtype = torch.promote_types(logits.dtype, torch.float32)
        largest = torch.empty(len(logits), 1, dtype=dtype, device=logits.device)
        log_gap = torch.empty_like(largest)
        for rows in self._blocks(logits):
            z = logits[rows]
            highest = z.amax(-1, keepdim=True)
            gap = self._gap("a", z, highest, dtype)
            log_gap[rows] = gap.exp_().sum(-1, keepdim=True).log_()
            largest[rows] = highest
        reference_logit = None
        if targets.references is not None:
            index = targets.references.unsqueeze(-1)
            reference_logit = logits.gather(-1, index).squeeze(-1).to(dtype)
        # What is one number a row is computed once for all: tiny tensors cost a call each.
        scalars = _RowScalars.stack(logits.shape[-1], largest, log_gap, loss)
        row_loss = torch.empty_like(largest[:, 0])
        for rows in self._blocks(logits):
            z = self._cast("z", logits[rows], dtype)
            cut = _cut(targets, rows)
            block = _RowScalars(*scalars[:, rows].unbind())
            # In its own place where nothing needs z, which may be the same, after that.
            place = out[rows] if out.dtype == dtype and not loss.mix_weight else None
            block_loss, slope = self._distil(z, block, loss, cut, wants_gradient, place)
            if loss.mix_weight and cut.references is not None:
                block_loss = self._mix_(block_loss, slope, z, block, loss, cut.references)
            row_loss[rows] = block_loss
            if slope is not None:
                if cut.row_weight is not None:
                    slope.mul_(cut.row_weight.unsqueeze(-1))
                if slope is not place:
                    out[rows] = slope
        if targets.row_weight is not None:
            row_loss.mul_(targets.row_weight)
        return StudentRows(
            row_loss, _RowScalars(*scalars).log_sum[:, 0], reference_logit, largest[:, 0]
        )

    def _distil(
        self,
        z: Tensor,
        row: "_RowScalars",
        loss: RowLoss,
        targets: RowTargets,
        wants_gradient: bool,
        place: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        if loss.kind == "proxy_dirichlet" and loss.offset == 1:
            mean_probs, inverse_w = _given(targets.mean_probs, targets.inverse_w)
            return self._proxy_dirichlet(z, row, mean_probs, inverse_w.unsqueeze(-1), place)
        if loss.kind == "end2" and loss.offset == 1:
            (mean_log_probs,) = _given(targets.mean_log_probs)
            return self._end2(z, row, mean_log_probs, place)
        rows: RowFunction
        if loss.kind == "mean_kl":
            rows, given = mean_kl_rows, _given(targets.mean_probs)
        elif loss.kind == "proxy_dirichlet":
            rows, given = reverse_rows(loss.offset), _given(targets.mean_probs, targets.inverse_w)
        elif loss.kind == "proxy_dirichlet_forward":
            rows = forward_rows(loss.offset)
            given = _given(targets.mean_probs, targets.inverse_precision, targets.inverse_w)
        else:
            rows, given = end2_rows(loss.offset), _given(targets.mean_log_probs)
        return rows(z, given, wants_gradient)

    def _proxy_dirichlet(
        self,
        z: Tensor,
        row: "_RowScalars",
        mean_probs: Tensor,
        inverse_w: Tensor,
        place: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        s, t, correction = self._exp_gamma(z)
        local, gap = self._entropy_and_gap(z, row, s, t, correction)
        fit = gap.mul_(mean_probs).sum(-1)
        # H[Dir(α)] = Σ h(z) − h(y) + (V − 1)(1 − ψ(α₀)).
        loss = -fit - (local + row.entropy[:, 0]) * inverse_w[:, 0]

        gradient = self._like("gradient", z) if place is None else place
        torch.sub(z, row.largest, out=gradient).exp_()
        gradient.mul_((row.u_total + row.g_total * inverse_w) * row.share)
        # p̄ u + g/w = s (p̄ (1 − s q + q) + (1 − s q)/w).
        q = horner(polynomials(z.dtype)[0], t, out=self._like("a", z))
        rest = torch.addcmul(self._one(z), s, q, value=-1, out=self._like("b", z))
        slope = q.add_(rest).mul_(mean_probs).addcmul_(rest, inverse_w)
        return loss, gradient.addcmul_(slope, s, value=-1)

    def _end2(
        self, z: Tensor, row: "_RowScalars", mean_log_probs: Tensor, place: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        s, t, correction = self._exp_gamma(z)
        local, gap = self._entropy_and_gap(z, row, s, t, correction)
        gradient = torch.exp(z, out=self._like("gradient", z) if place is None else place)
        gradient.mul_(gap.sub_(mean_log_probs))
        return local + gradient.sum(-1) + row.entropy[:, 0], gradient

    def _exp_gamma(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return s, t and −ln(1 + e^{−|z|}) of :class:`ExpGamma`.

        s keeps its relative accuracy as z → −∞, where the gradient is made of it; t and the
        logarithm, which are added to numbers of size 1, need an absolute one.
        """
        s = torch.sigmoid(z, out=self._like("s", z))
        t = torch.sub(self._one(z), s, out=self._like("t", z))
        return s, t, torch.maximum(s, t, out=self._like("correction", z)).log_()

    def _entropy_and_gap(
        self, z: Tensor, row: "_RowScalars", s: Tensor, t: Tensor, correction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return Σ h(z) with h = softplus(z)/2 + C(s), and ψ(α) − ψ(α₀)."""
        _, r_coefficients, c_coefficients = polynomials(z.dtype)
        positive = torch.clamp_min(z, 0, out=self._like("b", z))
        c = horner(c_coefficients, s, out=self._like("a", z))
        local = (positive.sum(-1) - correction.sum(-1)).mul_(0.5).add_(c.sum(-1))
        # Relative to the largest logit first: z itself may be large, the gap is not.
        gap = positive.sub_(row.positive_largest).sub_(correction)
        r = horner(r_coefficients, t, out=self._like("a", z))
        return local, gap.sub_(torch.addcmul(row.digamma_gap, t, r, out=r))

    def _mix_(
        self,
        row_loss: Tensor,
        gradient: Tensor | None,
        z: Tensor,
        row: "_RowScalars",
        loss: RowLoss,
        references: Tensor,
    ) -> Tensor:
        """Return (1 − w) · distillation + w · label-smoothed cross-entropy; the gradient too."""
        w, V = loss.mix_weight, z.shape[-1]
        other = loss.label_smoothing / (V - 1)
        reference = 1 - loss.label_smoothing - other
        index = references.unsqueeze(-1)
        # Not z − ln S: both may be 80, and their difference would lose two digits.
        log_probs = torch.sub(z, row.largest, out=self._like("b", z)).sub_(row.log_gap)
        cross_entropy = -reference * log_probs.gather(-1, index).squeeze(-1)
        if other:
            cross_entropy -= other * log_probs.sum(-1)
        if gradient is not None:
            gradient.mul_(1 - w).add_(log_probs.exp_(), alpha=w)
            if other:
                gradient.sub_(w * other)
            at_reference = torch.full_like(index, -w * reference, dtype=gradient.dtype)
            gradient.scatter_add_(-1, index, at_reference)
        return (1 - w) * row_loss + w * cross_entropy

    def _blocks(self, rows: Tensor) -> list[slice]:
        n, V = rows.shape
        size = max(1, _BLOCK_ELEMENTS // V)
        return [slice(begin, min(begin + size, n)) for begin in range(0, n, size)]

    def _cast(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows in a dtype: themselves if they have it."""
        if rows.dtype == dtype:
            return rows
        return self._memory(name, rows.shape, dtype, rows.device).copy_(rows)

    def _gap(self, name: str, rows: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows − largest, computed in a dtype."""
        if rows.dtype == dtype:
            return torch.sub(rows, largest, out=self._memory(name, rows.shape, dtype, rows.device))
        return self._memory(name, rows.shape, dtype, rows.device).copy_(rows).sub_(largest)

    def _like(self, name: str, example: Tensor) -> Tensor:
        return self._memory(name, example.shape, example.dtype, example.device)

    def _memory(
        self, name: str, shape: torch.Size, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Return memory of a shape, the same for a name as long as the sizes fit."""
        key = name, shape, dtype, device
        view = self._views.get(key)
        if view is not None:
            return view
        size = shape.numel()
        held = self._scratch.get(name)
        if held is None or held.numel() < size or held.dtype != dtype or held.device != device:
            held = torch.empty(size, dtype=dtype, device=device)
            self._scratch[name] = held
            self._views.clear()
        if len(self._views) >= _VIEWS:
            self._views.clear()
        view = held[:size].view(shape)
        self._views[key] = view
        return view

    def _one(self, example: Tensor) -> Tensor:
        """Return 1 as a tensor: a Python number would be made one at every call."""
        return self._memory("one", torch.Size(()), example.dtype, example.device).fill_(1)


class _RowScalars(NamedTuple):
    """What is one number a row, (n, 1) each."""

    largest: Tensor
    positive_largest: Tensor  # max(largest, 0)
    log_gap: Tensor  # ln S − max z
    log_sum: Tensor
    share: Tensor  # e^{max z}/S
    digamma_gap: Tensor  # ψ(α₀) − max(largest, 0)
    entropy: Tensor  # H[Dir(α)] − Σ h(z)
    u_total: Tensor
    g_total: Tensor

    @staticmethod
    def stack(V: int, largest: Tensor, log_gap: Tensor, loss: RowLoss) -> Tensor:
        """Return the fields as one tensor (9, n, 1), of which ``unbind`` makes them."""
        # A number a row costs nothing in float64, and its error would be every element's.
        terms = DirichletTerms.of_rows(V, loss.offset, largest.double(), log_gap.double())
        row = terms.row
        positive_largest = largest.double().clamp_min(0)
        # With b = α₀ − 1 = e^y and ρ = S/b: U₀ = ρ u(y), G₀ = ρ (g(y) + (V − 1) u(y)).
        made = _RowScalars(
            largest=largest.double(),
            positive_largest=positive_largest,
            log_gap=log_gap.double(),
            log_sum=terms.log_sum,
            share=(-log_gap.double()).exp(),
            digamma_gap=row.digamma - positive_largest,
            entropy=(V - 1) * (1 - row.digamma) - row.entropy_term,
            u_total=terms.share * row.trigamma,
            g_total=terms.share * (row.trigamma_gap + (V - 1) * row.trigamma),
        )
        return torch.stack(made).to(largest.dtype)


def _few(wanted: Tensor, V: int) -> tuple[Tensor, ...]:
    """Return the numbers of the wanted rows (n) bool, a block of them at a time."""
    rows = wanted.nonzero().squeeze(-1)
    return torch.split(rows, max(1, _BLOCK_ELEMENTS // V)) if len(rows) else ()


def _cut(targets: RowTargets, rows: slice) -> RowTargets:
    def part(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[rows]

    return RowTargets(
        part(targets.mean_probs),
        part(targets.mean_log_probs),
        part(targets.inverse_w),
        part(targets.inverse_precision),
        part(targets.references),
        part(targets.row_weight),
    )


def _given(*values: Tensor | None) -> tuple[Tensor, ...]:
    """Return the targets a loss needs; a missing one is the driver's mistake, not the user's."""
    given = tuple(value for value in values if value is not None)
    if len(given) != len(values):
        raise TypeError("the driver left out a target that this loss needs")
    return given
