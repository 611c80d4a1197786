"""The losses: error budgets against 100 digits, masks, identities, dtypes and bad input."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses import (
    LOSSES,
    end2_loss,
    label_smoothed_cross_entropy,
    mean_kl_loss,
    proxy_dirichlet_forward_loss,
    proxy_dirichlet_loss,
    rows,
)
from seqdistill.targets import ProxyDirichletTarget, proxy_dirichlet_target
from seqdistill.teachers import ensemble_statistics
from tests.reference import float64, losses, proxies
from tests.reference.arithmetic import concentrations, context, number, numbers, total
from tests.unit.loss_cases import (
    LOGITS,
    TEACHERS,
    Case,
    all_cases,
    cases,
    mean_kl_case,
    member_log_probs,
    statistics_of,
    student_logits,
    target_of,
)

# float32 budgets. Value: relative to the value or 0.01 nats. Gradient: each element relative to the
# parts that it is a sum of, and the whole by norm where those parts do not cancel.
VALUE, ELEMENT, GRADIENT = 1e-4, 3e-5, 1e-4
# A value that grows with e^z is a sum that cancels; two roundings of its parts.
GROWING_PARTS = 2e-7


def value_and_gradient(case: Case, logits: Tensor, mask: Tensor | None = None) -> Any:
    leaf = logits.detach().clone().requires_grad_()
    loss_sum, count = case.loss(leaf, mask)
    loss_sum.backward()
    return loss_sum.detach(), leaf.grad, count


def norm(values: Any) -> Any:
    return context.sqrt(total(v * v for v in values))


def assert_within_budget(case: Case, logits: Tensor) -> None:
    """One token (1, V) in float32 against 100 digits."""
    value, gradient, count = value_and_gradient(case, logits)
    assert count.item() == 1
    expected, expected_gradient = case.value_and_gradient(logits[0])
    parts, gradient_parts = case.terms(logits[0])
    allowed = VALUE * max(abs(expected), number(0.01))
    if case.grows:
        allowed += number(GROWING_PARTS) * parts
    if abs(expected) < torch.finfo(torch.float32).max:
        assert abs(number(value) - expected) < allowed, f"{case.name}: {value} for {expected}"
    assert torch.isfinite(gradient).all()
    errors = [number(g) - e for g, e in zip(gradient[0], expected_gradient, strict=True)]
    for v, (error, part) in enumerate(zip(errors, gradient_parts, strict=True)):
        # 1e-37: below it float32 has no digits left.
        assert abs(error) <= ELEMENT * part + number(1e-37), f"{case.name}, piece {v}"
    if norm(expected_gradient) > norm(gradient_parts) / 50:
        assert norm(errors) <= GRADIENT * norm(expected_gradient) + number(1e-37), case.name


@pytest.mark.parametrize("concentration", ["mkl", "epkl", "exact"])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("V", [2, 7])
def test_error_budget_of_every_loss(V: int, teacher: str, concentration: str) -> None:
    statistics = statistics_of(teacher, V)
    target = proxy_dirichlet_target(statistics, concentration)
    for logits in LOGITS:
        z = student_logits(logits, target)
        for offset in (0.0, 1.0):
            for case in cases(statistics, concentration, offset):
                assert_within_budget(case, z)
        assert_within_budget(mean_kl_case(statistics), z)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("teacher", ["peaked", "apart"])
def test_error_budget_at_a_large_vocabulary_and_extreme_logits(teacher: str, offset: float) -> None:
    V = 4001
    statistics = statistics_of(teacher, V)
    # Few distinct values: the reference computes each special function once.
    z = (torch.linspace(-80, 80, V) / 8).round()[torch.randperm(V)][None] * 8
    reverse, _, total_normalised, _, end2 = cases(statistics, "mkl", offset)
    for case in (reverse, total_normalised, end2):
        assert_within_budget(case, z)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("V", "N"), [(4001, 5), (40_000, 3)])
def test_large_vocabulary_agrees_with_naive_float64(V: int, N: int, offset: float) -> None:
    statistics = statistics_of("peaked", V, N=N)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(N, V, generator=generator) * 3
    for concentration in ("mkl", "exact"):
        for case in [*cases(statistics, concentration, offset), mean_kl_case(statistics)]:
            value, gradient, count = value_and_gradient(case, z)
            expected, expected_gradient = float64.value_and_gradient(case.naive, z)
            assert count.item() == N
            assert value.item() == pytest.approx(expected.sum().item(), rel=1e-5), case.name
            error = (gradient.double() - expected_gradient).norm(dim=-1)
            assert (error < 1e-5 * expected_gradient.norm(dim=-1)).all(), case.name


def test_the_naive_float64_form_agrees_with_100_digits() -> None:
    statistics = statistics_of("peaked", 7)
    z = student_logits("small", target_of("peaked", 7))
    for case in all_cases(statistics):
        expected, expected_gradient = case.value_and_gradient(z[0])
        value, gradient = float64.value_and_gradient(case.naive, z)
        assert value.item() == pytest.approx(float(expected), rel=1e-9)
        assert gradient[0].tolist() == pytest.approx(
            [float(g) for g in expected_gradient], rel=1e-7, abs=1e-11
        )


@pytest.mark.parametrize("logits", ["small", "wide", "widest", "optimal"])
def test_float64_reaches_its_own_budget(logits: str) -> None:
    statistics = ensemble_statistics(member_log_probs("apart", 7, dtype=torch.float64))
    z = student_logits(logits, proxy_dirichlet_target(statistics)).double()
    for case in all_cases(statistics):
        value, gradient, _ = value_and_gradient(case, z)
        assert value.dtype == gradient.dtype == torch.float64
        expected, expected_gradient = case.value_and_gradient(z[0])
        parts, gradient_parts = case.terms(z[0])
        assert abs(number(value) - expected) < 1e-9 * (abs(expected) + case.grows * parts + 1)
        for g, e, part in zip(gradient[0], expected_gradient, gradient_parts, strict=True):
            assert abs(number(g) - e) < 1e-9 * part, case.name


# --- dtypes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float16, 1e-3)], ids=str
)
@pytest.mark.parametrize("V", [7, 4001])
def test_half_precision_logits_are_computed_in_float32(
    V: int, dtype: torch.dtype, tolerance: float
) -> None:
    statistics = statistics_of("peaked", V, N=6)
    z = (student_logits("small", proxy_dirichlet_target(statistics)) * 2).to(dtype)
    for case in all_cases(statistics):
        value, gradient, _ = value_and_gradient(case, z)
        expected, expected_gradient, _ = value_and_gradient(case, z.float())
        assert value.dtype == torch.float32
        assert gradient.dtype == dtype
        assert torch.equal(value, expected), case.name
        # One rounding of the result, nothing else.
        error = (gradient.float() - expected_gradient).abs()
        smallest = 6e-8 if dtype == torch.float16 else 0.0
        assert (error <= tolerance * expected_gradient.abs() + smallest).all(), case.name


def test_a_loss_scale_lifts_float16_gradients_before_they_are_rounded() -> None:
    statistics = statistics_of("peaked", 4001, N=2)
    z = student_logits("small", proxy_dirichlet_target(statistics)).half().requires_grad_()
    loss_sum, _ = mean_kl_loss(z, statistics)
    (loss_sum * 2.0**-14).backward()
    unscaled = z.grad.clone()
    z.grad = None
    (loss_sum_again, _) = mean_kl_loss(z, statistics)
    (loss_sum_again * 2.0**10).backward()
    assert (unscaled == 0).float().mean() > 0.5
    assert (z.grad == 0).float().mean() < 0.01


def test_float64_targets_with_float32_logits_keep_the_logits_dtype() -> None:
    statistics = ensemble_statistics(member_log_probs("apart", 7, N=2).double())
    z = student_logits("small", proxy_dirichlet_target(statistics))
    for case in all_cases(statistics):
        value, gradient, _ = value_and_gradient(case, z)
        assert value.dtype == gradient.dtype == torch.float32


# --- masks and counts -----------------------------------------------------------------------

PADDING = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan, "1e30": 1e30, "-1e30": -1e30}


@pytest.mark.parametrize("padding", PADDING)
def test_padding_changes_nothing_whatever_it_holds(padding: str) -> None:
    B, T, V = 3, 5, 11
    log_probs = member_log_probs("apart", V, N=B * T).view(3, B, T, V)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(B, T, generator=generator) < 0.6
    assert 0 < mask.sum() < B * T
    z = torch.randn(B, T, V, generator=generator) * 3
    counted = ensemble_statistics(log_probs[:, mask])
    polluted_members = log_probs.clone()
    polluted_members[:, ~mask] = PADDING[padding]
    polluted_z = z.clone()
    polluted_z[~mask] = PADDING[padding]
    polluted = ensemble_statistics(polluted_members, token_mask=mask)
    for with_padding, without in zip(all_cases(polluted), all_cases(counted), strict=True):
        value, gradient, count = value_and_gradient(with_padding, polluted_z, mask)
        expected, expected_gradient, _ = value_and_gradient(without, z[mask])
        assert count.item() == mask.sum().item()
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient[mask], expected_gradient, rtol=1e-6, atol=1e-8)
        assert (gradient[~mask] == 0).all(), with_padding.name


def test_cross_entropy_ignores_padding_and_its_references() -> None:
    z = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    references = torch.tensor([[1, 2, 10**6], [3, -1, 0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    polluted = z.clone()
    polluted[~mask] = math.nan
    polluted.requires_grad_()
    loss_sum, count = label_smoothed_cross_entropy(polluted, references, mask, label_smoothing=0.1)
    loss_sum.backward()
    expected, _ = label_smoothed_cross_entropy(z[mask], references[mask], label_smoothing=0.1)
    assert count.item() == 4
    torch.testing.assert_close(loss_sum.detach(), expected)
    assert torch.isfinite(polluted.grad).all()
    assert (polluted.grad[~mask] == 0).all()
    assert (polluted.grad[mask] != 0).all()


def test_an_all_masked_batch_counts_nothing() -> None:
    statistics = statistics_of("apart", 7, N=4)
    mask = torch.zeros(4, dtype=torch.bool)
    for case in all_cases(statistics):
        value, gradient, count = value_and_gradient(case, torch.full((4, 7), math.nan), mask)
        assert value.item() == 0.0
        assert count.item() == 0
        assert (gradient == 0).all()


def test_loss_is_a_sum_over_tokens() -> None:
    statistics = statistics_of("apart", 7, N=8)
    z = student_logits("wide", proxy_dirichlet_target(statistics))
    for case in all_cases(statistics):
        whole, gradient, _ = value_and_gradient(case, z)
        parts = []
        for row in range(8):
            only = torch.zeros(8, dtype=torch.bool)
            only[row] = True
            value, part_gradient, count = value_and_gradient(case, z, only)
            assert count.item() == 1
            torch.testing.assert_close(part_gradient[row], gradient[row], rtol=1e-6, atol=1e-9)
            parts.append(value.double())
        torch.testing.assert_close(whole.double(), torch.stack(parts).sum(), rtol=1e-6, atol=1e-9)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = statistics_of("apart", 7, N=9)
    z = student_logits("wide", proxy_dirichlet_target(statistics))
    mask = torch.tensor([True] * 4 + [False] + [True] * 4)
    whole = [value_and_gradient(case, z, mask) for case in all_cases(statistics)]
    for elements in (1, 21):
        monkeypatch.setattr(rows, "_CHUNK_ELEMENTS", elements)
        for case, (value, gradient, count) in zip(all_cases(statistics), whole, strict=True):
            chunked, chunked_gradient, chunked_count = value_and_gradient(case, z, mask)
            torch.testing.assert_close(chunked, value, rtol=1e-6, atol=0)
            torch.testing.assert_close(chunked_gradient, gradient, rtol=1e-6, atol=1e-8)
            assert torch.equal(count, chunked_count)


# --- autograd -------------------------------------------------------------------------------


def test_incoming_gradient_scales_the_derivative() -> None:
    statistics = statistics_of("apart", 7, N=3)
    z = student_logits("small", proxy_dirichlet_target(statistics))
    for case in all_cases(statistics):
        _, gradient, _ = value_and_gradient(case, z)
        leaf = z.clone().requires_grad_()
        loss_sum, count = case.loss(leaf)
        # Through other operations on both sides: a mean, and logits that are themselves computed.
        (-3 * loss_sum / count).backward()
        torch.testing.assert_close(leaf.grad, -gradient)
        weight = torch.eye(7).requires_grad_()
        case.loss(z @ weight)[0].backward()
        torch.testing.assert_close(weight.grad, z.T @ gradient, rtol=1e-5, atol=1e-6)


def test_double_backward_raises_instead_of_being_wrong() -> None:
    statistics = statistics_of("apart", 7)
    z = student_logits("small", proxy_dirichlet_target(statistics))
    for case in all_cases(statistics):
        leaf = z.clone().requires_grad_()
        with pytest.raises(RuntimeError, match="first derivative only"):
            torch.autograd.grad(case.loss(leaf)[0], leaf, create_graph=True)


def test_inputs_are_not_mutated_and_values_need_no_gradient() -> None:
    statistics = statistics_of("apart", 7, N=2)
    z = student_logits("wide", proxy_dirichlet_target(statistics))
    before, p = z.clone(), statistics.mean_probs.clone()
    log_probs = statistics.mean_log_probs.clone()
    for case in all_cases(statistics):
        with_gradient, _, _ = value_and_gradient(case, z)
        value, _ = case.loss(z)
        assert not value.requires_grad
        assert torch.equal(value, with_gradient)
    assert torch.equal(z, before)
    assert torch.equal(statistics.mean_probs, p)
    assert torch.equal(statistics.mean_log_probs, log_probs)


# --- what the values mean -------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_reverse_loss_is_the_kl_to_the_proxy_up_to_a_constant(teacher: str, offset: float) -> None:
    target = target_of(teacher, 7)
    constants = []
    # Without an offset the KL is e^80 at logits of −80, and no constant is left in its digits.
    for kind in ("small", "wide", "optimal", *(["ramp", "widest", "low"] if offset else [])):
        z = student_logits(kind, target)
        loss_sum, _ = proxy_dirichlet_loss(z.double(), target, offset=offset)
        p, inverse = target.mean_probs[0], target.inverse_precision[0]
        divergence = proxies.divergence(concentrations(z[0], offset), p, inverse)
        constants.append(number(loss_sum) - divergence * number(inverse))
    # Σ p̄ differs from 1 by a float32 rounding, times ψ(α₀) of up to 80.
    spread = max(constants) - min(constants)
    assert spread < 2e-5, [float(c) for c in constants]


@pytest.mark.parametrize("normalisation", ["proxy", "total"])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("V", [2, 7, 4001])
def test_reverse_loss_is_least_where_e_z_is_w_times_the_mean(
    V: int, teacher: str, normalisation: str
) -> None:
    statistics = ensemble_statistics(member_log_probs(teacher, V, dtype=torch.float64))
    target = proxy_dirichlet_target(statistics)
    w = target.precision + (V if normalisation == "total" else 0)
    best = (w[:, None] * target.mean_probs).log().requires_grad_()
    loss_sum, _ = proxy_dirichlet_loss(best, target, normalisation=normalisation)
    loss_sum.backward()
    assert best.grad.abs().max() < 1e-10
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 0.1, 3.0):
        for _ in range(5):
            step = torch.randn(1, V, generator=generator, dtype=torch.float64) * size
            worse, _ = proxy_dirichlet_loss(
                best.detach() + step, target, normalisation=normalisation
            )
            assert worse > loss_sum


@pytest.mark.parametrize("normalisation", ["proxy", "total"])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_forward_kl_is_zero_at_equality_and_positive_elsewhere(
    teacher: str, offset: float, normalisation: str
) -> None:
    target = target_of(teacher, 7)
    p, inverse = target.mean_probs.double(), target.inverse_precision.double()
    exact = ProxyDirichletTarget(p, inverse, "mkl")
    # β = β̃₀ p̄ + 1 = e^z + o.
    equal = (p / inverse[:, None] + 1 - offset).log().requires_grad_()
    options = {"offset": offset, "normalisation": normalisation}
    loss_sum, _ = proxy_dirichlet_forward_loss(equal, exact, **options)
    loss_sum.backward()
    assert abs(loss_sum.item()) < 1e-9
    assert equal.grad.abs().max() < 1e-9
    for step in (0.5, -0.5, 3.0):
        moved = equal.detach().clone()
        moved[..., p.argmax()] += step
        w = inverse.reciprocal() + (7 if normalisation == "total" else 0)
        divergence = proxy_dirichlet_forward_loss(moved, exact, **options)[0] * w
        assert divergence > 1e-3


def test_mean_kl_is_zero_at_equality_and_positive_elsewhere() -> None:
    statistics = statistics_of("apart", 50, N=3)
    equal = (statistics.mean_probs.log() + 7.5).requires_grad_()
    loss_sum, _ = mean_kl_loss(equal, statistics)
    loss_sum.backward()
    assert abs(loss_sum.item()) < 1e-6
    assert equal.grad.abs().max() < 1e-6
    assert mean_kl_loss(torch.zeros(3, 50), statistics)[0] > 0.1


def test_mean_kl_with_a_piece_that_the_teachers_exclude() -> None:
    log_probs = member_log_probs("apart", 6)
    log_probs = torch.cat([log_probs, torch.full((3, 1, 1), -math.inf)], dim=-1)
    statistics = ensemble_statistics(log_probs)
    z = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    assert_within_budget(mean_kl_case(statistics), z)
    for offset in (0.0, 1.0):
        for case in cases(statistics, "mkl", offset)[:4]:
            value, gradient, _ = value_and_gradient(case, z)
            expected, expected_gradient = case.value_and_gradient(z[0])
            assert value.item() == pytest.approx(float(expected), rel=1e-5)
            assert gradient[0].tolist() == pytest.approx(
                [float(g) for g in expected_gradient], rel=1e-4, abs=1e-6
            )


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("normalisation", ["proxy", "total"])
@pytest.mark.parametrize("loss", [proxy_dirichlet_loss, proxy_dirichlet_forward_loss])
@pytest.mark.parametrize("concentration", ["mkl", "epkl", "exact"])
def test_agreeing_members_give_a_finite_loss_and_gradient(
    loss: Any, normalisation: str, concentration: str, offset: float
) -> None:
    half = torch.full((4, 2, 2), 0.5).log()
    target = proxy_dirichlet_target(ensemble_statistics(half), concentration)
    assert torch.isinf(target.precision).all()
    z = torch.tensor([[0.0, 3.0], [-80.0, 80.0]], requires_grad=True)
    loss_sum, _ = loss(z, target, offset=offset, normalisation=normalisation)
    loss_sum.backward()
    assert torch.isfinite(loss_sum)
    assert torch.isfinite(z.grad).all()
    # The student is still told which way p̄ lies: towards equal logits.
    assert z.grad[0, 1] > z.grad[0, 0]


def test_contradicting_members_have_a_finite_total_normalised_loss() -> None:
    # Each excludes what another allows: RMI is the largest number, 1/w = 1/V in the limit.
    certain = torch.eye(7)[:3, None].log()
    target = proxy_dirichlet_target(ensemble_statistics(certain))
    z = torch.linspace(-2, 2, 7)[None].requires_grad_()
    loss_sum, _ = proxy_dirichlet_loss(z, target, normalisation="total")
    loss_sum.backward()
    expected, expected_gradient = losses.proxy_dirichlet(
        z[0], target.mean_probs[0], 1e38, 1.0, "total"
    )
    assert loss_sum.item() == pytest.approx(float(expected), rel=1e-5)
    assert z.grad[0].tolist() == pytest.approx([float(g) for g in expected_gradient], abs=1e-6)


def test_normalisations_differ_only_by_w() -> None:
    # total with precision β̃₀ is proxy with β̃₀ + V: the fit term does not know w.
    target = target_of("apart", 7, N=3)
    shifted = ProxyDirichletTarget(
        target.mean_probs, (target.precision + 7).reciprocal(), target.concentration
    )
    z = student_logits("small", target)
    total_normalised, _ = proxy_dirichlet_loss(z, target, normalisation="total")
    proxy_normalised, _ = proxy_dirichlet_loss(z, shifted, normalisation="proxy")
    torch.testing.assert_close(total_normalised, proxy_normalised)
    assert not torch.isclose(total_normalised, proxy_dirichlet_loss(z, target)[0], rtol=1e-3)


# --- EnD² -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_end2_accepts_statistics_tensor_and_generator(offset: float, temperature: float) -> None:
    members = member_log_probs("apart", 7, N=3)
    z = student_logits("small", target_of("apart", 7, N=3))
    softened = torch.log_softmax(members.double() / temperature, dim=-1).mean(0)
    expected = sum(losses.end2(z[row], softened[row], offset)[0] for row in range(3))
    statistics = ensemble_statistics(members, temperature=temperature)
    for given in (
        end2_loss(z, members, offset=offset, temperature=temperature),
        end2_loss(z, (m for m in members), offset=offset, temperature=temperature),
        end2_loss(z, list(members), offset=offset, temperature=temperature),
        end2_loss(z, statistics, offset=offset),
        end2_loss(z, statistics, offset=offset, temperature=temperature),
    ):
        assert given[0].item() == pytest.approx(float(expected), rel=1e-5)
        assert given[1].item() == 3


def test_end2_default_temperature_is_one() -> None:
    members = member_log_probs("apart", 7, N=3)
    z = student_logits("small", target_of("apart", 7, N=3))
    assert torch.equal(end2_loss(z, members)[0], end2_loss(z, members, temperature=1.0)[0])


def test_end2_is_the_negative_log_likelihood_of_torch_distributions() -> None:
    members = member_log_probs("apart", 7, N=3).double()
    z = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_density = torch.distributions.Dirichlet(z.exp() + 1, validate_args=False).log_prob(
        members.exp()
    )
    expected = -log_density.mean(0).sum()
    assert end2_loss(z, members)[0].item() == pytest.approx(expected.item(), rel=1e-9)


def test_end2_refuses_statistics_of_another_temperature() -> None:
    statistics = ensemble_statistics(member_log_probs("apart", 7), temperature=2.0)
    with pytest.raises(InputError, match=r"temperature 2\.0.*asked for 1\.0"):
        end2_loss(torch.zeros(1, 7), statistics, temperature=1.0)


# --- label smoothing ------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("V", [2, 7, 4001])
def test_label_smoothing_against_torch_and_fairseqs_convention(V: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, V, generator=generator, dtype=torch.float64, requires_grad=True)
    references = torch.randint(V, (2, 3), generator=generator)
    loss_sum, count = label_smoothed_cross_entropy(z, references, label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(loss_sum, z)
    # fairseq: ε_i = ε/(V − 1), loss = (1 − ε − ε_i) nll + ε_i Σ_v nll_v.
    log_probs = torch.log_softmax(z, dim=-1)
    nll = -log_probs.gather(-1, references[..., None]).sum()
    eps_i = smoothing / (V - 1)
    fairseq = (1 - smoothing - eps_i) * nll - eps_i * log_probs.sum()
    # torch spreads ε over all V pieces, the reference included.
    flat = z.reshape(-1, V)
    in_torch = smoothing * V / (V - 1)
    assert count.item() == 6
    for expected in [fairseq] + (
        [F.cross_entropy(flat, references.view(-1), reduction="sum", label_smoothing=in_torch)]
        if in_torch <= 1
        else []
    ):
        assert loss_sum.item() == pytest.approx(expected.item(), rel=1e-12)
        (expected_gradient,) = torch.autograd.grad(expected, z, retain_graph=True)
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_error_budget(smoothing: float) -> None:
    target = target_of("apart", 7)
    for kind in LOGITS:
        z = student_logits(kind, target).requires_grad_()
        loss_sum, _ = label_smoothed_cross_entropy(z, torch.tensor([3]), label_smoothing=smoothing)
        loss_sum.backward()
        expected, gradient = losses.label_smoothed_cross_entropy(z[0], 3, smoothing)
        assert abs(number(loss_sum) - expected) < 1e-6 * max(abs(expected), 1)
        for computed, right in zip(numbers(z.grad[0]), gradient, strict=True):
            assert abs(computed - right) < 2e-6


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [proxy_dirichlet_loss, proxy_dirichlet_forward_loss])
def test_proxy_losses_refuse_bad_input(loss: Any) -> None:
    target = target_of("apart", 7, N=3)
    z = torch.zeros(3, 7)
    with pytest.raises(InputError, match=r"offset of 1 \(default\) or 0, got 0\.5"):
        loss(z, target, offset=0.5)
    with pytest.raises(InputError, match="among proxy, total, got 'mean'"):
        loss(z, target, normalisation="mean")
    with pytest.raises(InputError, match=r"\(3, 8\).*\(3, 7\).*one vocabulary"):
        loss(torch.zeros(3, 8), target)
    with pytest.raises(InputError, match=r"token mask of shape \(3,\), got \(3, 1\)"):
        loss(z, target, torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(InputError, match="leading dimensions"):
        loss(z, ProxyDirichletTarget(target.mean_probs, target.inverse_precision[:2], "mkl"))


def test_other_losses_refuse_bad_input() -> None:
    statistics = statistics_of("apart", 7, N=3)
    z = torch.zeros(3, 7)
    with pytest.raises(InputError, match="one vocabulary"):
        mean_kl_loss(torch.zeros(3, 8), statistics)
    with pytest.raises(InputError, match="one vocabulary"):
        end2_loss(torch.zeros(1, 7), statistics)
    with pytest.raises(InputError, match="offset"):
        end2_loss(z, statistics, offset=2)
    with pytest.raises(InputError, match="token mask"):
        mean_kl_loss(z, statistics, torch.ones(2, dtype=torch.bool))
    for smoothing in (-0.1, 1.0):
        with pytest.raises(InputError, match=r"label smoothing in \[0, 1\)"):
            label_smoothed_cross_entropy(
                z, torch.zeros(3, dtype=torch.long), label_smoothing=smoothing
            )
    with pytest.raises(InputError, match="leading dimensions"):
        label_smoothed_cross_entropy(z, torch.zeros(2, dtype=torch.long))


def test_every_registered_loss_can_be_called_by_its_name() -> None:
    statistics = statistics_of("apart", 7, N=3)
    target = proxy_dirichlet_target(statistics)
    assert set(LOSSES) == {"proxy_dirichlet", "proxy_dirichlet_forward", "end2", "mean_kl"}
    for name, loss in LOSSES.items():
        loss_sum, count = loss(
            torch.zeros(3, 7), target if name.startswith("proxy") else statistics, None
        )
        assert torch.isfinite(loss_sum)
        assert count.item() == 3
