"""Students with a distribution over logits: their outputs, drawn members and measures."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.student.logit_space import LEAST_SCALE, ScaleOutputs
from seqdistill.teachers import ensemble_statistics
from seqdistill.uncertainty.estimators import UncertaintyOptions, estimator_for
from seqdistill.uncertainty.heads import Projection, head_rows
from seqdistill.uncertainty.logit_space import (
    LOGIT_SPACE_KINDS,
    drawn_statistics,
    logit_entropy,
    logit_noise,
)
from seqdistill.uncertainty.sequence import joint_ensemble_measures

R, D, V, S = 4, 3, 9, 5
SETTINGS: dict[str, dict[str, Any]] = {
    "laplace": {"comparable": "log_softmax", "rank": 0, "samples": S},
    "gaussian": {"comparable": "centred", "rank": 2, "samples": S},
    "concrete": {"samples": S},
}


def head_of(kind: str, predictive: str = "base") -> StudentHead:
    return StudentHead(kind, None, predictive, None, SETTINGS[kind])


def student(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Features, projection and log-scales of R rows."""
    generator = torch.Generator().manual_seed(3)
    width = 1 if kind == "concrete" else V
    shapes = ((R, D), (V, D), (R, width))
    features, weight, scales = (torch.randn(s, generator=generator) for s in shapes)
    return features, weight, 0.5 * scales


def rows_of(kind: str) -> Any:
    features, weight, scales = student(kind)
    return head_rows(head_of(kind), features, scales, Projection(weight))


def members_of(kind: str, samples: int = S, seed: int = 0) -> Tensor:
    """(S, R, V) ln p of the drawn members, written out."""
    features, weight, scales = student(kind)
    z = features @ weight.t()
    noise = logit_noise(kind, samples, V, seed)
    return torch.stack([torch.log_softmax(z + scales.exp() * one, -1) for one in noise])


# --- outputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOGIT_SPACE_KINDS)
def test_outputs_begin_at_scale_one_and_save_what_they_are(kind: str) -> None:
    head = head_of(kind)
    outputs = head.outputs(D, V)
    assert outputs is not None
    s = outputs(torch.randn(2, 6, D))
    assert s.shape == (2, 6, 1 if kind == "concrete" else V)
    assert s.abs().max() < 2e-3
    again = StudentHead.from_dict(head.to_dict())
    assert again == head
    other = again.outputs(D, V)
    assert other is not None
    other.load_state_dict(outputs.state_dict())


def test_outputs_have_the_weights_that_they_say() -> None:
    def count(rank: int) -> int:
        outputs = ScaleOutputs(D=128, width=4000, rank=rank, described="laplace")
        return sum(p.numel() for p in outputs.parameters())

    assert count(0) == 128 * 4000 + 4000
    assert count(16) == 16 * (128 + 4000) + 4000


def test_scales_have_a_floor_and_are_free_above_it() -> None:
    outputs = ScaleOutputs(D=1, width=1, rank=0, described="laplace")
    for raw, wanted in ((-100.0, math.log(LEAST_SCALE)), (-2.0, -2.0), (5.0, 5.0)):
        with torch.no_grad():
            outputs.bias.fill_(raw)
        assert outputs(torch.zeros(1, 1)).item() == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("laplace", {"comparable": "raw"}, "log_softmax or centred"),
        ("laplace", {"rank": -1}, "rank of the scales"),
        ("gaussian", {"samples": 1}, "at least 2 samples"),
        ("concrete", {"rank": 3}, "expected settings samples"),
    ],
)
def test_bad_heads(kind: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        StudentHead(kind, settings=SETTINGS[kind] | change)
    with pytest.raises(InputError, match="has no offset"):
        StudentHead(kind, 1.0, settings=SETTINGS[kind])


# --- drawn members ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "named"), [("laplace", "laplace"), ("gaussian", "norm"), ("concrete", "gumbel_r")]
)
def test_noise_is_of_its_distribution(kind: str, named: str) -> None:
    noise = logit_noise(kind, 4, 5000, 1)
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise.flatten().numpy(), named).pvalue > 0.01


def test_noise_is_seeded_and_more_samples_continue_the_same() -> None:
    few, more = logit_noise("laplace", 3, 50, 7), logit_noise("laplace", 6, 50, 7)
    assert torch.equal(few, more[:3])
    assert not torch.equal(few, logit_noise("laplace", 3, 50, 8))
    with pytest.raises(InputError, match="laplace, gaussian, concrete"):
        logit_noise("cauchy", 2, 5, 0)


@pytest.mark.parametrize("kind", LOGIT_SPACE_KINDS)
@pytest.mark.parametrize("predictive", ["base", "mean"])
def test_measures_are_those_of_the_drawn_members(kind: str, predictive: str) -> None:
    estimator = estimator_for([head_of(kind, predictive)], UncertaintyOptions(("all",)))
    rows = rows_of(kind)
    reading = estimator.read(rows)
    members = members_of(kind)
    statistics = ensemble_statistics(members)
    for name in ("total_uncertainty", "data_uncertainty", "mutual_information", "epkl",
                 "reverse_mutual_information"):  # fmt: skip
        torch.testing.assert_close(
            reading.measures[name], getattr(statistics, name), rtol=1e-4, atol=1e-5
        )
    features, weight, scales = student(kind)
    base = torch.log_softmax(features @ weight.t(), -1)
    decoded = statistics.mean_probs.log() if predictive == "mean" else base
    torch.testing.assert_close(reading.log_probs, decoded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        reading.measures["total_uncertainty_base"], -(base.exp() * base).sum(-1)
    )
    torch.testing.assert_close(reading.measures["logit_entropy"], logit_entropy(kind, scales, V))
    assert (estimator.info.kind, estimator.info.samples, estimator.info.seed) == (kind, S, 0)

    tokens, at = torch.tensor([0, 8, 3, 3, 1]), torch.tensor([0, 1, 2, 3, 3])
    terms = estimator.token_terms(rows[0], tokens, at)
    torch.testing.assert_close(terms[0].float(), base[at, tokens], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms[1:].float(), members[:, at, tokens], rtol=1e-4, atol=1e-5)
    found = estimator.sequence_measures(
        {name: values[at].unsqueeze(0) for name, values in reading.measures.items()},
        terms.unsqueeze(1),
    )
    for name, value in joint_ensemble_measures(members[:, at, tokens].unsqueeze(1)).items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5)
    assert found["joint_total_uncertainty_base"].item() == pytest.approx(
        -base[at, tokens].mean().item(), rel=1e-5
    )
    of_decoded = estimator.token_log_probs(terms)
    torch.testing.assert_close(of_decoded.float(), decoded[at, tokens], rtol=1e-4, atol=1e-4)


def test_tokens_can_be_looked_up_before_the_rows_were_read() -> None:
    estimator = estimator_for([head_of("laplace")])
    tokens, at = torch.tensor([2]), torch.tensor([1])
    unread = estimator.token_terms(rows_of("laplace")[0], tokens, at)
    rows = rows_of("laplace")
    estimator.read(rows)
    torch.testing.assert_close(unread, estimator.token_terms(rows[0], tokens, at))


def test_a_narrow_distribution_has_no_knowledge_uncertainty() -> None:
    features, weight, _ = student("laplace")
    narrow = torch.full((R, V), -12.0)
    rows = head_rows(head_of("laplace"), features, narrow, Projection(weight))
    reading = estimator_for([head_of("laplace")]).read(rows)
    assert reading.measures["epkl"].max() < 1e-6


def test_samples_and_seed_can_be_asked_for() -> None:
    options = UncertaintyOptions(dirichlet_samples=3, dirichlet_seed=11)
    estimator = estimator_for([head_of("gaussian")], options)
    reading = estimator.read(rows_of("gaussian"))
    statistics = ensemble_statistics(members_of("gaussian", 3, 11))
    torch.testing.assert_close(reading.measures["epkl"], statistics.epkl, rtol=1e-4, atol=1e-5)
    assert (estimator.info.samples, estimator.info.seed) == (3, 11)


def test_the_training_log_has_the_same_statistics() -> None:
    for kind in LOGIT_SPACE_KINDS:
        features, weight, scales = student(kind)
        found = drawn_statistics(head_of(kind), features @ weight.t(), scales)
        wanted = ensemble_statistics(members_of(kind))
        torch.testing.assert_close(found.epkl, wanted.epkl, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["laplace", "gaussian"])
def test_entropy_of_the_logits_is_scipys(kind: str) -> None:
    log_scales = torch.tensor([[0.0, -1.0, 0.7]])
    of_scipy = stats.laplace if kind == "laplace" else stats.norm
    wanted = of_scipy.entropy(scale=log_scales.exp().numpy()).mean()
    assert logit_entropy(kind, log_scales, 3).item() == pytest.approx(float(wanted), rel=1e-6)


def test_refusals() -> None:
    with pytest.raises(InputError, match="decodes alone"):
        estimator_for([head_of("laplace"), head_of("laplace")])
    with pytest.raises(InputError, match="cannot decode together"):
        estimator_for([head_of("laplace"), None])
    with pytest.raises(InputError, match="--ensemble-combination ep"):
        estimator_for([head_of("laplace")], UncertaintyOptions(combination="ep"))
    with pytest.raises(InputError, match="location and scale"):
        estimator_for([head_of("laplace")]).read([torch.zeros(2, V)])
    features, weight, scales = student("laplace")
    rows = head_rows(head_of("laplace"), features * math.nan, scales, Projection(weight))
    with pytest.raises(InputError, match="logits or scales"):
        estimator_for([head_of("laplace")]).read(rows)
