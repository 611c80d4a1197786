"""What holds for every input: identities, symmetries and bounds, on examples hypothesis invents."""

import json

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from seqdistill.hypotheses import Hypothesis, ModelInfo
from seqdistill.numerics import ExpGamma
from seqdistill.student import predictive_log_probs
from seqdistill.targets import proxy_dirichlet_target
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics
from seqdistill.uncertainty import dirichlet_uncertainty
from tests.unit.loss_cases import all_cases, cases

KNOWLEDGE = ("mutual_information", "epkl", "reverse_mutual_information")
MEASURES = ("total_uncertainty", "data_uncertainty", *KNOWLEDGE)
OFFSETS = st.sampled_from([0.0, 1.0])


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@st.composite
def ensembles(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Tensor:
    """(M, N, V) log-probabilities: members that share a peak and disagree more or less."""
    M, N, V = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(st.integers(2, 40))
    seed = draw(st.integers(0, 2**31))
    shared, own = draw(st.floats(0, 12)), draw(st.floats(0.01, 8))
    logits = shared * normal(seed, 1, N, V) + own * normal(seed + 1, M, N, V)
    return torch.log_softmax(logits, dim=-1).to(dtype)


@st.composite
def tokens(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """An ensemble and a student's logits (N, V) for it."""
    members = draw(ensembles(dtype))
    scale, shift = draw(st.floats(0.01, 20)), draw(st.floats(-10, 10))
    z = scale * normal(draw(st.integers(0, 2**31)), *members.shape[1:]) + shift
    return members, z.clamp(-60, 60).to(dtype)


def differentiate(case, z: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    leaf = z.detach().clone().requires_grad_()
    value, _ = case.loss(leaf, mask)
    value.backward()
    return value.detach(), leaf.grad


def close(first: Tensor, second: Tensor, scale: float = 1.0, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance * scale)


# --- teachers -------------------------------------------------------------------------------


@given(ensembles())
def test_identities_and_bounds_of_the_statistics(members: Tensor) -> None:
    M, _, V = members.shape
    s = ensemble_statistics(members)
    for name in MEASURES:
        assert (getattr(s, name) >= 0).all(), name
    close(s.epkl, s.mutual_information + s.reverse_mutual_information)
    # EPKL once more, from its definition.
    close(s.epkl, -(s.mean_probs * s.mean_log_probs).sum(-1) - s.data_uncertainty)
    close(s.total_uncertainty, s.data_uncertainty + s.mutual_information)
    upper = torch.tensor([V, M], dtype=torch.float64).log() + 1e-12
    assert (s.total_uncertainty <= upper[0]).all()
    assert (s.mutual_information <= upper[1]).all()


@given(ensembles(torch.float32))
def test_float32_statistics_are_never_negative_or_nan(members: Tensor) -> None:
    s = ensemble_statistics(members)
    exact = ensemble_statistics(members.double())
    for name in MEASURES:
        assert (getattr(s, name) >= 0).all(), name
        close(getattr(s, name).double(), getattr(exact, name), tolerance=5e-6)


@given(ensembles(), st.randoms(use_true_random=False))
def test_order_of_members_does_not_matter(members: Tensor, random) -> None:
    order = list(range(members.shape[0]))
    random.shuffle(order)
    first, second = ensemble_statistics(members), ensemble_statistics(members[order])
    for name in MEASURES:
        close(getattr(first, name), getattr(second, name), tolerance=1e-11)


@given(ensembles(), st.integers(0, 2**31))
def test_order_of_the_vocabulary_does_not_matter(members: Tensor, seed: int) -> None:
    order = torch.randperm(members.shape[-1], generator=torch.Generator().manual_seed(seed))
    first, second = ensemble_statistics(members), ensemble_statistics(members[..., order])
    close(first.mean_probs[..., order], second.mean_probs, tolerance=1e-12)
    for name in MEASURES:
        close(getattr(first, name), getattr(second, name), tolerance=1e-11)
    for concentration in ("mkl", "epkl", "exact"):
        close(
            proxy_dirichlet_target(first, concentration).inverse_precision,
            proxy_dirichlet_target(second, concentration).inverse_precision,
        )


@given(ensembles(), st.integers(1, 4))
def test_counting_every_member_twice_changes_nothing(members: Tensor, times: int) -> None:
    first, second = ensemble_statistics(members), ensemble_statistics(members.repeat(times, 1, 1))
    for name in MEASURES:
        close(getattr(first, name), getattr(second, name), tolerance=1e-11)


@given(ensembles(), st.integers(2, 5))
def test_agreeing_members_know_everything(members: Tensor, M: int) -> None:
    s = ensemble_statistics([members[0]] * M)
    for name in KNOWLEDGE:
        assert (getattr(s, name) >= 0).all()
        assert (getattr(s, name) < 1e-13).all(), name
    close(s.total_uncertainty, s.data_uncertainty, tolerance=1e-12)


@given(ensembles())
def test_a_high_temperature_makes_the_members_agree(members: Tensor) -> None:
    hot = ensemble_statistics(members, temperature=1e4)
    assert (hot.reverse_mutual_information < 1e-5).all()
    close(hot.mean_probs, torch.full_like(hot.mean_probs, 1 / members.shape[-1]), tolerance=0.02)


@given(ensembles())
def test_precisions_are_ordered(members: Tensor) -> None:
    statistics = ensemble_statistics(members)
    assume((statistics.reverse_mutual_information > 1e-9).all())
    V = members.shape[-1]
    stirling = proxy_dirichlet_target(statistics, "mkl").precision
    exact = proxy_dirichlet_target(statistics, "exact").precision
    # x (ln x − ψ(x)) lies between 1/2 and 1: Stirling's precision is low by a factor of 1 to 2.
    assert (exact >= stirling * (1 - 1e-9)).all()
    assert (exact <= stirling * 2 * (V - 0.5) / (V - 1) * (1 + 1e-9)).all()


# --- losses ---------------------------------------------------------------------------------


@given(tokens(), OFFSETS, st.integers(0, 2**31))
def test_losses_do_not_know_the_order_of_the_vocabulary(
    drawn: tuple[Tensor, Tensor], offset: float, seed: int
) -> None:
    members, z = drawn
    order = torch.randperm(z.shape[-1], generator=torch.Generator().manual_seed(seed))
    here = cases(ensemble_statistics(members), "mkl", offset)
    there = cases(ensemble_statistics(members[..., order]), "mkl", offset)
    for first, second in zip(here, there, strict=True):
        value, gradient = differentiate(first, z)
        moved_value, moved_gradient = differentiate(second, z[..., order])
        scale = 1 + gradient.abs().sum().item()
        close(value, moved_value, scale)
        close(gradient[..., order], moved_gradient, scale)


@given(tokens(torch.float32), st.integers(1, 3), st.floats(width=32))
def test_padding_does_not_matter(drawn: tuple[Tensor, Tensor], padding: int, held: float) -> None:
    members, z = drawn
    (M, N, V), fill = members.shape, float(held)
    padded_members = torch.cat([members, torch.full((M, padding, V), fill)], dim=1)
    padded_z = torch.cat([z, torch.full((padding, V), fill)])
    mask = torch.tensor([True] * N + [False] * padding)
    padded = all_cases(ensemble_statistics(padded_members, token_mask=mask))
    for bare, with_padding in zip(all_cases(ensemble_statistics(members)), padded, strict=True):
        value, gradient = differentiate(bare, z)
        padded_value, padded_gradient = differentiate(with_padding, padded_z, mask)
        size = gradient.abs().max().item()
        close(value, padded_value, size, 1e-6)
        close(gradient, padded_gradient[:N], size, 1e-6)
        assert (padded_gradient[N:] == 0).all()


@given(tokens(), OFFSETS)
def test_divergences_are_not_negative(drawn: tuple[Tensor, Tensor], offset: float) -> None:
    members, z = drawn
    statistics = ensemble_statistics(members)
    for case in all_cases(statistics):
        if case.name.startswith(("mean_kl", "proxy_dirichlet_forward")):
            value, gradient = differentiate(case, z)
            # A divergence sums parts of the gradient's size.
            assert value >= -1e-9 * (1 + gradient.abs().sum()), case.name


@given(tokens(), OFFSETS)
def test_the_gradient_is_a_direction_of_descent(
    drawn: tuple[Tensor, Tensor], offset: float
) -> None:
    members, z = drawn
    z = z.clamp(-5, 5)
    for case in cases(ensemble_statistics(members), "mkl", offset):
        value, gradient = differentiate(case, z)
        slope = (gradient**2).sum()
        step = 1e-5 / slope.sqrt()
        lower, _ = case.loss(z - step * gradient)
        upper, _ = case.loss(z + step * gradient)
        drop = (upper - lower) / (2 * step * slope)
        noise = 1e-13 * value.abs() / (step * slope)
        # At an optimum there is no slope to measure, and the noise says so.
        assert (drop - 1).abs() < 1e-3 + noise, case.name


@given(tokens(torch.float32))
def test_float32_losses_and_gradients_are_finite(drawn: tuple[Tensor, Tensor]) -> None:
    members, z = drawn
    for case in all_cases(ensemble_statistics(members)):
        value, gradient = differentiate(case, z)
        assert torch.isfinite(value), case.name
        assert torch.isfinite(gradient).all(), case.name


# --- the student ----------------------------------------------------------------------------


@given(tokens(), OFFSETS)
def test_identities_and_bounds_of_a_students_uncertainty(
    drawn: tuple[Tensor, Tensor], offset: float
) -> None:
    z, V = drawn[1], drawn[1].shape[-1]
    u = dirichlet_uncertainty(z, offset)
    close(u.epkl, u.mutual_information + u.reverse_mutual_information)
    close(u.total_uncertainty, u.data_uncertainty + u.mutual_information)
    close(u.epkl, (V - 1) * u.inverse_precision)
    for name in MEASURES:
        assert (getattr(u, name) >= -1e-10).all(), name
    assert (u.total_uncertainty <= torch.tensor(V).double().log() + 1e-9).all()
    assert (u.total_uncertainty_base <= torch.tensor(V).double().log() + 1e-9).all()
    order = torch.arange(V - 1, -1, -1)
    again = dirichlet_uncertainty(z[..., order], offset)
    for name in MEASURES:
        close(getattr(u, name), getattr(again, name))


@given(tokens(), st.floats(0.5, 10))
def test_more_evidence_is_less_knowledge_uncertainty(
    drawn: tuple[Tensor, Tensor], more: float
) -> None:
    z = drawn[1]
    for offset in (0.0, 1.0):
        before, after = dirichlet_uncertainty(z, offset), dirichlet_uncertainty(z + more, offset)
        assert (after.inverse_precision < before.inverse_precision).all()
        assert (after.epkl < before.epkl).all()
        assert (after.reverse_mutual_information < before.reverse_mutual_information).all()


@given(tokens(), OFFSETS, st.sampled_from(["base", "mean"]))
def test_predictives_are_distributions_in_the_order_of_the_logits(
    drawn: tuple[Tensor, Tensor], offset: float, predictive: str
) -> None:
    z = drawn[1]
    log_probs = predictive_log_probs(z, offset, predictive)
    assert (log_probs <= 1e-12).all()
    close(log_probs.exp().sum(-1), torch.ones(z.shape[0], dtype=torch.float64))
    largest = z.argmax(-1, keepdim=True)
    assert (log_probs.gather(-1, largest) == log_probs.amax(-1, keepdim=True)).all()


@given(st.floats(-300, 300), st.floats(0.01, 10))
def test_the_gamma_family_is_monotone_and_bounded(z: float, step: float) -> None:
    gamma = ExpGamma(torch.tensor([z, z + step], dtype=torch.float64))
    for name in ("digamma", "entropy_term", "trigamma"):
        value = getattr(gamma, name)
        assert value[0] <= value[1] + 1e-12, name
    assert ((gamma.trigamma >= 0) & (gamma.trigamma <= 1)).all()
    # g rises from 0 to 1/2 and no further.
    assert ((gamma.trigamma_gap >= 0) & (gamma.trigamma_gap <= 0.5 + 1e-10)).all()


# --- the exchange format --------------------------------------------------------------------

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        Hypothesis,
        id=st.integers(0, 10**9),
        rank=st.integers(0, 50),
        text=TEXT,
        tokens=st.lists(st.integers(0, 10**6), max_size=5),
        pieces=st.lists(TEXT, max_size=5),
        log_prob=NUMBERS,
        token_log_probs=st.lists(NUMBERS, max_size=5),
        token_uncertainty=st.dictionaries(TEXT, st.lists(NUMBERS, max_size=5), max_size=3),
        uncertainty=st.dictionaries(TEXT, NUMBERS, max_size=3),
        model=st.builds(
            ModelInfo,
            kind=st.sampled_from(["ensemble", "dirichlet", "softmax"]),
            members=st.integers(1, 20),
            predictive=st.sampled_from(["pe", "base", "mean", "softmax"]),
            offset=st.none() | OFFSETS,
        ),
        source=st.none() | TEXT,
        reference=st.none() | TEXT,
        score=st.none() | NUMBERS,
        forced=st.booleans(),
    )
)
def test_a_hypothesis_survives_its_line(hypothesis: Hypothesis) -> None:
    line = hypothesis.to_json()
    assert len(line.split("\n")) == 1
    assert Hypothesis.from_dict(json.loads(line)) == hypothesis


def test_the_strategies_reach_both_ends() -> None:
    """The examples above would prove little if all members agreed, or none did."""
    seen: list[EnsembleStatistics] = []

    @given(ensembles())
    def collect(members: Tensor) -> None:
        seen.append(ensemble_statistics(members))

    collect()
    rmi = torch.cat([s.reverse_mutual_information for s in seen])
    assert rmi.min() < 1e-2
    assert rmi.max() > 5
