"""Members drawn from a Dirichlet student, and the numbers of the public research code."""

import math

import mpmath
import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.dirichlet import dirichlet_uncertainty
from seqdistill.uncertainty.estimators import UncertaintyOptions, estimator_for
from seqdistill.uncertainty.measures import available_measures
from seqdistill.uncertainty.official import official_token_measures
from seqdistill.uncertainty.sampling import sampled_log_probs


def logits_of(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [1.0, 0.0])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_a_drawn_probability_has_the_moments_of_its_beta_distribution(
    offset: float, shift: float
) -> None:
    V, S = 12, 8_000
    logits = logits_of(3, V) + shift
    tokens = torch.tensor([0, 5, 11])
    drawn = sampled_log_probs(logits, tokens, torch.tensor([0, 4, 9]), offset, samples=S)
    assert drawn.shape == (S, 3)
    alpha = logits.double().exp() + offset
    a, total = alpha[range(3), tokens], alpha.sum(-1)
    # E[π^k] = Π_{i<k} (a + i)/(α₀ + i), and from it the standard error of two moments.
    of_power = [torch.ones_like(a)]
    for i in range(4):
        of_power.append(of_power[-1] * (a + i) / (total + i))
    for k in (1, 2):
        error = 5 * ((of_power[2 * k] - of_power[k] ** 2) / S).sqrt()
        assert bool((((k * drawn).exp().mean(0) - of_power[k]).abs() < error).all())
    # E[ln π] and its variance, ψ and ψ' of the marginal Beta(a, α₀ − a).
    expected_log = torch.digamma(a) - torch.digamma(total)
    spread = torch.polygamma(1, a) - torch.polygamma(1, total)
    error = 5 * (spread / S).sqrt()
    assert bool(((drawn.mean(0) - expected_log).abs() < error).all())


def test_draws_depend_on_seed_position_and_member_alone() -> None:
    logits, tokens = logits_of(6, 9), torch.tensor([3, 1, 4, 1, 5, 8])
    positions = torch.tensor([0, 1, 2, 0, 1, 7])
    together = sampled_log_probs(logits, tokens, positions, 1.0, samples=8, seed=3)
    for n in range(6):
        alone = sampled_log_probs(
            logits, tokens[n : n + 1], positions[n : n + 1], 1.0,
            samples=8, seed=3, rows=torch.tensor([n]),
        )  # fmt: skip
        torch.testing.assert_close(together[:, n : n + 1], alone)
    fewer = sampled_log_probs(logits, tokens, positions, 1.0, samples=5, seed=3)
    torch.testing.assert_close(together[:5], fewer)
    for other in (
        sampled_log_probs(logits, tokens, positions, 1.0, samples=8, seed=4),
        sampled_log_probs(logits, tokens, positions + 1, 1.0, samples=8, seed=3),
    ):
        assert not bool((together == other).any())


def test_extreme_logits_stay_finite() -> None:
    for offset in (1.0, 0.0):
        logits = torch.tensor([[80.0, -80.0, 0.0], [-60.0, -60.0, -59.0]])
        drawn = sampled_log_probs(
            logits, torch.tensor([1, 0]), torch.tensor([0, 1]), offset, samples=50
        )
        assert bool(torch.isfinite(drawn).all())
        assert bool((drawn <= 0).all())


def test_bad_arguments() -> None:
    one = torch.tensor([0])
    with pytest.raises(InputError, match="at least 1 sample"):
        sampled_log_probs(torch.zeros(1, 2), one, one, 1.0, samples=0)
    with pytest.raises(InputError, match="offset of 1"):
        sampled_log_probs(torch.zeros(1, 2), one, one, 0.5, samples=2)


def sequence(samples: int, seed: int = 0, predictive: str = "base") -> dict[str, Tensor]:
    L, V = 7, 15
    head = StudentHead("dirichlet", 1.0, predictive)
    options = UncertaintyOptions(("all",), dirichlet_samples=samples, dirichlet_seed=seed)
    estimator = estimator_for([head], options)
    logits = logits_of(L, V, seed=2)
    reading = estimator.read([logits])
    tokens = logits.argmax(-1)
    terms = estimator.token_terms(logits, tokens, torch.arange(L), torch.arange(L))
    assert len(terms) == 3 + samples
    return estimator.sequence_measures(reading.measures, terms)


def test_joint_measures_of_drawn_members() -> None:
    found = sequence(5)
    assert set(found) == set(available_measures("dirichlet"))
    again, other = sequence(5), sequence(5, seed=1)
    for combination in ("total_uncertainty", "reverse_mutual_information"):
        name = f"joint_{combination}_ep"
        assert found[name] == again[name]
        assert found[name] != other[name]
    assert found["joint_reverse_mutual_information_ep"] > 0


def test_many_drawn_members_tend_to_the_product_of_expectations() -> None:
    """Draws are independent from step to step, so E[Π_l π_l(y_l)] is the product of the means."""
    found = sequence(8_000)
    for measure, tolerance in (("total_uncertainty", 1e-2), ("reverse_mutual_information", 1e-2)):
        assert float(found[f"joint_{measure}_ep"]) == pytest.approx(
            float(found[f"joint_{measure}_pe"]), abs=tolerance
        )


def test_without_samples_a_student_has_no_ep() -> None:
    head = StudentHead("dirichlet", 1.0)
    estimator = estimator_for([head], UncertaintyOptions(("all",)))
    assert not any(name.endswith("_ep") for name in estimator.measures)
    with pytest.raises(InputError, match="--dirichlet-samples"):
        estimator_for([head], UncertaintyOptions(("joint_total_uncertainty_ep",)))
    with pytest.raises(InputError, match="no members to combine"):
        estimator_for([head], UncertaintyOptions(combination="ep"))
    with pytest.raises(InputError, match="no model here is one"):
        estimator_for([None, None], UncertaintyOptions(dirichlet_samples=4))


@pytest.mark.parametrize("predictive", ["base", "mean"])
def test_baselines_follow_what_is_decoded(predictive: str) -> None:
    head = StudentHead("dirichlet", 1.0, predictive)
    estimator = estimator_for([head], UncertaintyOptions(("all",)))
    logits = logits_of(4, 9)
    reading = estimator.read([logits], temperature=2.0)
    alpha = logits.exp() + 1
    probs = logits.softmax(-1) if predictive == "base" else alpha / alpha.sum(-1, keepdim=True)
    entropy = -(probs * probs.log()).sum(-1)
    torch.testing.assert_close(reading.measures["entropy"], entropy)
    torch.testing.assert_close(
        reading.measures["negative_log_max_probability"], -probs.amax(-1).log()
    )
    name = "total_uncertainty_base" if predictive == "base" else "total_uncertainty"
    torch.testing.assert_close(reading.measures["entropy"], reading.measures[name])
    tokens = torch.tensor([0, 8, 3, 3])
    terms = estimator.token_terms(logits, tokens, torch.arange(4))
    of_tokens = estimator.token_uncertainty(reading.measures, terms)
    torch.testing.assert_close(
        of_tokens["negative_log_probability"], -probs[range(4), tokens].log(), rtol=1e-5, atol=1e-6
    )


# -- the public research code ------------------------------------------------------------------


def official(logits: list[float], offset: float) -> dict[str, float]:
    """fairseq/uncertainty.py of the released code as it reads, in exact arithmetic."""
    eps = mpmath.mpf("1e-10")
    exponentials = [mpmath.exp(z) for z in logits]
    alpha = [e + offset for e in exponentials]
    total, mass = sum(alpha), sum(exponentials)
    base = [e / mass for e in exponentials]
    psi = mpmath.digamma
    entropy = -sum(b * mpmath.log(b + eps) for b in base)
    expected = -sum(b * (psi(a + 1) - psi(total + 1)) for a, b in zip(alpha, base, strict=True))
    mutual = sum(
        (b + eps) * (mpmath.log(b + eps) - psi(a + 1 + eps) + psi(total + 1 + eps))
        for a, b in zip(alpha, base, strict=True)
    )
    mkl = sum(
        b * (mpmath.log(b + eps) - psi(a + eps) + psi(total + eps))
        for a, b in zip(alpha, base, strict=True)
    )
    values = {
        "total_uncertainty": entropy,
        "data_uncertainty": expected,
        "mutual_information": mutual,
        "epkl": (len(logits) - 1) / total,
        "reverse_mutual_information": mkl,
    }
    return {f"official_{name}": max(0.0, float(value)) for name, value in values.items()}


@pytest.mark.parametrize("offset", [1.0, 0.0])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_official_measures_are_those_of_the_released_code(offset: float, scale: float) -> None:
    logits = logits_of(5, 20, scale=scale)
    found = official_token_measures(logits, offset)
    for row in range(5):
        expected = official(logits[row].double().tolist(), offset)
        got = {name: float(values[row]) for name, values in found.items()}
        assert got == pytest.approx(expected, rel=1e-4, abs=2e-6)


def test_official_mutual_information_is_the_negated_difference() -> None:
    # Without an offset base and mean agree, and only the sign is left of the difference.
    logits = logits_of(30, 20, scale=2.0)
    found = official_token_measures(logits, 0.0)
    assert float(found["official_mutual_information"].max()) < 1e-6
    assert float(dirichlet_uncertainty(logits, 0.0).mutual_information.min()) > 1e-3


def test_official_joint_measures() -> None:
    found = sequence(2)
    logits = logits_of(7, 15, seed=2).double()
    tokens = logits.argmax(-1)
    alpha = logits.exp() + 1
    log_base = torch.log_softmax(logits, -1)[range(7), tokens]
    gap = torch.digamma(alpha.sum(-1)) - torch.digamma(alpha[range(7), tokens]) + log_base
    assert float(found["official_joint_total_uncertainty"]) == pytest.approx(
        -float(log_base.mean()), rel=1e-5
    )
    assert float(found["official_joint_reverse_mutual_information"]) == pytest.approx(
        float(gap.mean()), rel=1e-5
    )


def test_an_overflowing_student_has_finite_official_numbers() -> None:
    found = official_token_measures(torch.tensor([[95.0, 0.0, 1.0]]), 1.0)
    assert all(math.isfinite(float(value)) for value in found.values())
