"""Logit-space losses against one-entry-at-a-time references, at optima, and with bad input."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.logit_space import COMPARABLE, FAMILIES, centre, logit_space_loss
from tests.reference import logit_space as reference

N, V, M = 3, 7, 4


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def case() -> tuple[Tensor, Tensor, Tensor]:
    return numbers(N, V), numbers(N, V, seed=1, scale=0.3), numbers(M, N, V, seed=2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("comparable", COMPARABLE)
def test_value_is_that_of_the_reference(family: str, comparable: str) -> None:
    z, s, members = case()
    found, count = logit_space_loss(
        z, s, members, family=family, comparable=comparable, mean_weight=0.7, likelihood_weight=1.3
    )
    wanted = 0.0
    for n in range(N):
        rows = members[:, n].tolist()
        likelihood = reference.logit_likelihood(
            z[n].tolist(), s[n].tolist(), rows, family, comparable
        )
        wanted += 1.3 * likelihood + 0.7 * reference.mean_divergence(z[n].tolist(), rows)
    assert found.item() == pytest.approx(wanted, rel=1e-12)
    assert int(count) == N


def test_value_is_that_of_scipys_distributions() -> None:
    """Entry by entry at the log-probabilities of one member."""
    z, s, members = case()
    x = torch.log_softmax(members[:1], dim=-1)
    for family, of_scipy in (("laplace", stats.laplace), ("gaussian", stats.norm)):
        found, _ = logit_space_loss(z, s, members[:1], family=family, mean_weight=0.0)
        location = torch.log_softmax(z, dim=-1).numpy()
        wanted = -of_scipy.logpdf(x[0].numpy(), location, s.exp().numpy()).mean(axis=-1).sum()
        assert found.item() == pytest.approx(float(wanted), rel=1e-12)


def test_gaussian_is_stationary_at_mean_and_deviation() -> None:
    """Means of centred logits are centred; those of log-probabilities are no log-probabilities."""
    _, _, members = case()
    z = centre(members).mean(dim=0).requires_grad_()
    s = centre(members).std(dim=0, correction=0).log().requires_grad_()
    loss, _ = logit_space_loss(
        z, s, members, family="gaussian", comparable="centred", mean_weight=0.0
    )
    of_z, of_s = torch.autograd.grad(loss, (z, s))
    assert of_z.abs().max() < 1e-12
    assert of_s.abs().max() < 1e-12


@pytest.mark.parametrize("comparable", COMPARABLE)
def test_laplace_scales_are_stationary_at_the_mean_distance(comparable: str) -> None:
    z, _, members = case()

    def made(x: Tensor) -> Tensor:
        return centre(x) if comparable == "centred" else torch.log_softmax(x, dim=-1)

    s = (made(members) - made(z)).abs().mean(dim=0).log().requires_grad_()
    loss, _ = logit_space_loss(z, s, members, comparable=comparable, mean_weight=0.0)
    (of_s,) = torch.autograd.grad(loss, s)
    assert of_s.abs().max() < 1e-12


def test_divergence_alone_is_zero_at_the_mean_prediction() -> None:
    _, s, members = case()
    z = torch.softmax(members, dim=-1).mean(dim=0).log()
    loss, _ = logit_space_loss(z, s, members, likelihood_weight=0.0)
    assert loss.item() == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("comparable", COMPARABLE)
def test_a_constant_of_any_models_logits_changes_nothing(family: str, comparable: str) -> None:
    z, s, members = case()
    shifted = members + numbers(M, N, 1, seed=9, scale=5.0)
    one, _ = logit_space_loss(z, s, members, family=family, comparable=comparable)
    other, _ = logit_space_loss(z + 3.0, s, shifted, family=family, comparable=comparable)
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


def test_members_are_streamed_and_their_temperature_is_that_of_their_logits() -> None:
    z, s, members = case()
    order: list[int] = []

    def given() -> Any:
        for m in range(M):
            order.append(m)
            yield members[m]

    streamed, _ = logit_space_loss(z, s, given(), temperature=2.0)
    whole, _ = logit_space_loss(z, s, members / 2)
    assert order == list(range(M))
    assert streamed.item() == whole.item()


def test_padded_rows_change_nothing_whatever_they_hold() -> None:
    z, s, members = case()
    mask = torch.tensor([True, False, True])
    wanted, _ = logit_space_loss(z[mask], s[mask], members[:, mask])
    z[1], s[1], members[:, 1] = math.nan, math.inf, -math.inf
    z, s = z.requires_grad_(), s.requires_grad_()
    found, count = logit_space_loss(z, s, members, mask)
    of_z, of_s = torch.autograd.grad(found, (z, s))
    assert found.item() == wanted.item()
    assert int(count) == 2
    assert torch.isfinite(of_z).all()
    assert not of_z[1].any()
    assert not of_s[1].any()


def test_half_precision_is_computed_in_float32() -> None:
    z, s, members = (x.bfloat16() for x in case())
    found, _ = logit_space_loss(z, s, members)
    wanted, _ = logit_space_loss(z.double(), s.double(), members.double())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_tokens_add_up() -> None:
    z, s, members = case()
    whole, _ = logit_space_loss(z, s, members)
    parts = [logit_space_loss(z[n], s[n], members[:, n])[0] for n in range(N)]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "cauchy"}, "laplace, gaussian"),
        ({"comparable": "raw"}, "log_softmax or centred"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"members": torch.zeros(0, N, V)}, "at least one member"),
        ({"members": torch.zeros(M, N, V + 1)}, "member 1"),
        ({"log_scales": torch.zeros(N, 1)}, "a log-scale for each logit"),
        ({"token_mask": torch.ones(N + 1, dtype=torch.bool)}, "token mask"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    z, s, members = case()
    given = {"logits": z, "log_scales": s, "members": members, **change}
    with pytest.raises(InputError, match=words):
        logit_space_loss(**given)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_member_that_is_not_finite_is_named(bad: float) -> None:
    z, s, members = case()
    members[2, 1, 3] = bad
    with pytest.raises(InputError, match="member 3"):
        logit_space_loss(z, s, members)


def test_second_derivatives_are_refused() -> None:
    z, s, members = case()
    loss, _ = logit_space_loss(z.requires_grad_(), s, members)
    with pytest.raises(RuntimeError, match="first derivative only"):
        torch.autograd.grad(loss, z, create_graph=True)
