"""Written derivatives against finite differences in float64."""

import pytest
import torch

from seqdistill.losses import label_smoothed_cross_entropy
from seqdistill.losses.concrete import concrete_loss
from seqdistill.losses.logit_space import COMPARABLE, FAMILIES, logit_space_loss
from seqdistill.numerics import ExpGamma
from seqdistill.targets import proxy_dirichlet_target
from seqdistill.teachers import ensemble_statistics
from tests.reference import losses
from tests.reference.arithmetic import context, number
from tests.unit.loss_cases import TEACHERS, cases, mean_kl_case, member_log_probs

V, N = 6, 3


def check(function, z: torch.Tensor) -> None:
    """The fitted functions integrate each other exactly, so finite differences see no fit error."""
    # What a difference of two values of this size, divided by 2e-6, can resolve.
    resolution = 1e-7 + 1e-8 * abs(function(z).item())
    assert torch.autograd.gradcheck(
        function, (z.requires_grad_(),), eps=1e-6, atol=resolution, rtol=1e-6
    )


@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_distillation_losses(teacher: str, offset: float, scale: float) -> None:
    statistics = ensemble_statistics(member_log_probs(teacher, V, N=N, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, V, generator=generator, dtype=torch.float64) * scale
    mask = torch.tensor([True, False, True])
    for concentration in ("mkl", "exact"):
        for case in [*cases(statistics, concentration, offset), mean_kl_case(statistics)]:
            check(lambda x, case=case: case.loss(x)[0], z)
            check(lambda x, case=case: case.loss(x, mask)[0], z)
            # Through a mean and a leading shape of two dimensions.
            check(lambda x, case=case: case.loss(2 * x.tanh())[0] / 7, z)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_smoothed_cross_entropy(smoothing: float) -> None:
    references = torch.tensor([[0, 3], [5, 5]])
    mask = torch.tensor([[True, True], [False, True]])
    z = torch.randn(2, 2, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check(
        lambda x: label_smoothed_cross_entropy(x, references, mask, label_smoothing=smoothing)[0], z
    )


@pytest.mark.parametrize("z", [-60.0, -5.0, -0.77, 0.0, 3.0, 30.0])
def test_gamma_derivatives_are_those_of_the_computed_values(z: float) -> None:
    """Ψ and h differentiate into u and g: by autograd through the polynomials, to rounding."""
    leaf = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    t = torch.sigmoid(-leaf)
    s = torch.sigmoid(leaf)
    gamma = ExpGamma(leaf.detach())
    r = sum(c * t**i for i, c in enumerate(gamma._r))
    c_of_s = sum(c * s**i for i, c in enumerate(gamma._c))
    softplus = -torch.nn.functional.logsigmoid(-leaf)
    (u,) = torch.autograd.grad(softplus - t * r, leaf, retain_graph=True)
    (g,) = torch.autograd.grad(0.5 * softplus + c_of_s, leaf)
    assert u.item() == pytest.approx(gamma.trigamma.item(), rel=1e-12)
    assert g.item() == pytest.approx(gamma.trigamma_gap.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["proxy_dirichlet", "proxy_dirichlet_forward", "end2", "mean_kl"])
def test_reference_gradients_are_the_derivatives_of_the_reference_values(name: str) -> None:
    logits, piece = [0.3, -2.0, 5.0], 1
    if name == "end2":
        arguments = [([-1.0, -0.5, -3.0],)]
    elif name == "mean_kl":
        arguments = [([0.5, 0.125, 0.375],)]
    else:
        arguments = [
            ([0.5, 0.125, 0.375], 0.25, offset, normalisation)
            for offset in (0.0, 1.0)
            for normalisation in ("proxy", "total")
        ]
    step = number(10) ** -25
    for given in arguments:
        function = getattr(losses, name)
        values = []
        for sign in (-1, 1):
            moved = [context.mpf(z) for z in logits]
            moved[piece] += sign * step
            values.append(function(moved, *given)[0])
        slope = (values[1] - values[0]) / (2 * step)
        assert abs(slope - function(logits, *given)[1][piece]) < number(10) ** -40


def test_target_and_statistics_carry_no_gradient() -> None:
    members = member_log_probs("apart", V, N=N).requires_grad_()
    target = proxy_dirichlet_target(ensemble_statistics(members), "exact")
    assert not target.mean_probs.requires_grad
    assert not target.inverse_precision.requires_grad


def check_two(function, z: torch.Tensor, s: torch.Tensor) -> None:
    """Both outputs of a student together."""
    assert torch.autograd.gradcheck(
        function, (z.requires_grad_(), s.requires_grad_()), eps=1e-6, atol=1e-7, rtol=1e-6
    )


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("comparable", COMPARABLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_logit_space_losses(teacher: str, comparable: str, family: str) -> None:
    members = member_log_probs(teacher, V, N=N, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z, s = torch.randn(2, N, V, generator=generator, dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    for token_mask in (None, mask):

        def function(z, s, token_mask=token_mask):
            loss, _ = logit_space_loss(
                z, s, members, token_mask, family=family, comparable=comparable,
                mean_weight=0.7, likelihood_weight=1.3, temperature=1.5,
            )  # fmt: skip
            return loss / 7

        check_two(function, z, s)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_concrete_loss(teacher: str) -> None:
    members = member_log_probs(teacher, V, N=N, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, V, generator=generator, dtype=torch.float64)
    s = torch.randn(N, 1, generator=generator, dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    check_two(
        lambda z, s: concrete_loss(z, s, members, mask, mean_weight=0.7, likelihood_weight=1.3)[0],
        z,
        s,
    )
