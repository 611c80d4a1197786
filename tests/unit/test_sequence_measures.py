"""Sequence measures against plain loops, their identities, their masks, and the table."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.student import StudentHead, predictive_log_probs
from seqdistill.teachers import ensemble_statistics
from seqdistill.uncertainty.dirichlet import dirichlet_uncertainty
from seqdistill.uncertainty.estimators import estimator_for
from seqdistill.uncertainty.measures import MEASURES, measures_of, select_measures
from seqdistill.uncertainty.sequence import (
    DirichletTokenTerms,
    average_over_n_best,
    dirichlet_token_terms,
    joint_dirichlet_measures,
    joint_ensemble_measures,
    mean_over_positions,
    mixture_log_probs,
)


def random_log_probs(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(shape, generator=generator), dim=-1)


def joint_by_loops(member_log_probs: list[list[float]]) -> dict[str, float]:
    """The formulas as they are written, in float64; M lists of L log-probabilities."""
    M, L = len(member_log_probs), len(member_log_probs[0])
    log_pe = sum(
        math.log(sum(math.exp(member[position]) for member in member_log_probs) / M)
        for position in range(L)
    )
    of_members = [math.fsum(member) for member in member_log_probs]
    largest = max(of_members)
    log_ep = largest + math.log(sum(math.exp(log_p - largest) for log_p in of_members) / M)
    mean = sum(of_members) / M
    return {
        "joint_total_uncertainty_pe": -log_pe / L,
        "joint_total_uncertainty_ep": -log_ep / L,
        "joint_reverse_mutual_information_pe": -mean / L + log_pe / L,
        "joint_reverse_mutual_information_ep": -mean / L + log_ep / L,
    }


@pytest.mark.parametrize("length", [1, 2, 7, 200])
@pytest.mark.parametrize("members", [2, 5])
def test_joint_measures_of_an_ensemble_are_the_formulas(members: int, length: int) -> None:
    B = 3
    log_probs = random_log_probs(members, B, length, 11)[..., 4]
    got = joint_ensemble_measures(log_probs)
    for b in range(B):
        expected = joint_by_loops(log_probs[:, b].double().tolist())
        assert {name: float(values[b]) for name, values in got.items()} == pytest.approx(
            expected, rel=1e-9, abs=1e-12
        )


def test_unlikely_hypotheses_do_not_underflow() -> None:
    # e^−4000 is 0 in float64: sums over members of P_m(y) must stay logarithms.
    log_probs = torch.full((2, 40), -100.0)
    log_probs[1] -= 1.0
    got = joint_ensemble_measures(log_probs)
    assert float(got["joint_total_uncertainty_ep"]) == pytest.approx(100 + math.log(2) / 40)
    assert float(got["joint_reverse_mutual_information_ep"]) == pytest.approx(
        0.5 - math.log(2) / 40
    )


def test_members_that_agree_have_no_joint_knowledge_uncertainty() -> None:
    log_probs = random_log_probs(1, 4, 9)[..., 0].expand(5, 4)
    got = joint_ensemble_measures(log_probs)
    for combination in ("pe", "ep"):
        rmi = got[f"joint_reverse_mutual_information_{combination}"]
        torch.testing.assert_close(rmi, torch.zeros_like(rmi), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        got["joint_total_uncertainty_pe"], got["joint_total_uncertainty_ep"], rtol=1e-12, atol=0
    )


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 12))
def test_joint_knowledge_uncertainty_is_not_negative(seed: int, members: int, length: int) -> None:
    got = joint_ensemble_measures(random_log_probs(members, length, 5, seed=seed)[..., 0])
    assert got["joint_reverse_mutual_information_pe"] >= 0
    assert got["joint_reverse_mutual_information_ep"] >= 0
    # Both split one cross-entropy, −(1/L) mean_m ln P_m(y), into two parts.
    torch.testing.assert_close(
        got["joint_total_uncertainty_pe"] + got["joint_reverse_mutual_information_pe"],
        got["joint_total_uncertainty_ep"] + got["joint_reverse_mutual_information_ep"],
    )


@pytest.mark.parametrize("padding", [float("nan"), -1e30, 0.0, float("inf")])
def test_padding_changes_nothing(padding: float) -> None:
    log_probs = random_log_probs(3, 2, 5, 7)[..., 1]
    token_mask = torch.tensor([[True] * 5 + [False] * 2, [True] * 3 + [False] * 4])
    padded = torch.full((3, 2, 7), padding)
    padded[:, 0, :5] = log_probs[:, 0]
    padded[:, 1, :3] = log_probs[:, 1, :3]
    got = joint_ensemble_measures(padded, token_mask)
    for row, length in enumerate([5, 3]):
        expected = joint_ensemble_measures(log_probs[:, row, :length])
        for name, value in expected.items():
            torch.testing.assert_close(got[name][row], value)
    means = mean_over_positions(padded[0], token_mask)
    torch.testing.assert_close(means[1], log_probs[0, 1, :3].double().mean())


def test_a_sequence_without_positions_is_refused() -> None:
    with pytest.raises(InputError, match="at least one counted position"):
        mean_over_positions(torch.zeros(2, 3), torch.tensor([[True, True, True], [False] * 3]))


def test_one_member_is_no_ensemble() -> None:
    with pytest.raises(InputError, match="at least 2 members, got 1"):
        joint_ensemble_measures(torch.zeros(1, 4))
    with pytest.raises(InputError, match="at least one member"):
        mixture_log_probs([])


def test_the_mixture_is_that_of_the_statistics_and_does_not_underflow() -> None:
    log_probs = random_log_probs(4, 3, 50)
    got = mixture_log_probs(iter(log_probs))
    torch.testing.assert_close(got.exp(), ensemble_statistics(log_probs).mean_probs)
    tail = torch.full((2, 1), -200.0)
    torch.testing.assert_close(mixture_log_probs(tail), torch.tensor([-200.0]))


def test_averages_over_the_n_best() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    log_probs = torch.tensor([[-700.0, -700.0, -900.0], [-1.0, -2.0, -3.0]])
    torch.testing.assert_close(
        average_over_n_best(values, log_probs), torch.tensor([1.5, 4.0], dtype=torch.float64)
    )
    uniform = average_over_n_best(values)
    torch.testing.assert_close(uniform, torch.tensor([3.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(average_over_n_best(values, log_probs, temperature=1e9), uniform)
    with pytest.raises(InputError, match="temperature above 0"):
        average_over_n_best(values, log_probs, temperature=0.0)
    with pytest.raises(InputError, match="at least one hypothesis"):
        average_over_n_best(torch.zeros(2, 0))


# -- Dirichlet students ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1.0, 0.0])
def test_terms_of_tokens_are_the_formulas(offset: float, dtype: torch.dtype) -> None:
    R, V = 4, 30
    logits = 4 * torch.randn(R, V, generator=torch.Generator().manual_seed(1)).to(dtype)
    tokens = torch.tensor([3, 0, 29, 3, 17])
    rows = torch.tensor([0, 1, 1, 3, 2])
    terms = dirichlet_token_terms(logits, tokens, offset, rows)
    alpha = logits.double().exp() + offset
    precision = alpha.sum(-1)
    mean = torch.log(alpha / precision.unsqueeze(-1))
    expected_log = torch.digamma(alpha) - torch.digamma(precision).unsqueeze(-1)
    base = torch.log_softmax(logits.double(), -1)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}
    for got, expected in (
        (terms.log_probs_mean, mean),
        (terms.log_probs_base, base),
        (terms.reverse_mutual_information, mean - expected_log),
    ):
        torch.testing.assert_close(got.double(), expected[rows, tokens], **tolerance)


@pytest.mark.parametrize("offset", [1.0, 0.0])
@pytest.mark.parametrize("shift", [-20.0, 0.0, 30.0, 70.0])
def test_terms_keep_their_digits_where_the_student_is_sure(offset: float, shift: float) -> None:
    logits = shift + torch.randn(5, 40, generator=torch.Generator().manual_seed(2))
    tokens = torch.arange(5)
    narrow = dirichlet_token_terms(logits, tokens, offset).stack()
    wide = dirichlet_token_terms(logits.double(), tokens, offset).stack()
    assert bool((narrow[2] >= 0).all())
    torch.testing.assert_close(narrow.double(), wide, rtol=2e-5, atol=1e-6)


def test_the_expected_term_is_the_token_measure() -> None:
    """Averaged over tokens drawn from α/α₀, the joint RMI's terms give the token RMI and TU."""
    logits = 2 * torch.randn(1, 12, dtype=torch.float64)
    everything = torch.arange(12)
    terms = dirichlet_token_terms(logits, everything, 1.0, torch.zeros(12, dtype=torch.long))
    token = dirichlet_uncertainty(logits, 1.0)
    p = terms.log_probs_mean.exp()
    torch.testing.assert_close(
        (p * terms.reverse_mutual_information).sum(), token.reverse_mutual_information[0]
    )
    torch.testing.assert_close(-(p * terms.log_probs_mean).sum(), token.total_uncertainty[0])


def test_joint_measures_of_a_dirichlet_student() -> None:
    terms = DirichletTokenTerms(*torch.tensor([[[-1.0, -3.0]], [[-2.0, -6.0]], [[0.5, 0.1]]]))
    got = joint_dirichlet_measures(terms)
    assert {name: float(value) for name, value in got.items()} == pytest.approx(
        {
            "joint_total_uncertainty_pe": 2.0,
            "joint_total_uncertainty_base": 4.0,
            "joint_reverse_mutual_information_pe": 0.3,
        }
    )


# -- estimators: one interface for every kind of model ---------------------------------------

HEADS = {
    "ensemble": [None, None, None],
    "softmax": [StudentHead("softmax")],
    "dirichlet": [StudentHead("dirichlet", 1.0, "mean")],
}


def outputs_of(kind: str, rows: int = 6, V: int = 20) -> list[Tensor]:
    if kind == "dirichlet":
        return [2 * torch.randn(rows, V, generator=torch.Generator().manual_seed(3))]
    return [random_log_probs(rows, V, seed=seed) for seed in range(len(HEADS[kind]))]


@pytest.mark.parametrize("kind", HEADS)
def test_an_estimator_gives_every_measure_of_its_kind(kind: str) -> None:
    estimator = estimator_for(HEADS[kind])
    outputs = outputs_of(kind)
    reading = estimator.read(iter(outputs))
    tokens, rows = torch.tensor([1, 4, 4, 0]), torch.tensor([0, 5, 2, 2])
    terms = torch.cat([estimator.token_terms(output, tokens, rows) for output in outputs])
    measures = {name: values[rows] for name, values in reading.measures.items()}
    sequence = estimator.sequence_measures(measures, terms)
    assert tuple(reading.measures) == estimator.token_measures
    assert set(sequence) == set(measures_of(kind))
    assert set(reading.measures) == {n for n in measures_of(kind) if MEASURES[n].level == "token"}
    for name, values in measures.items():
        torch.testing.assert_close(sequence[name], values.double().mean())
    # What the terms say of a token is what would have been decoded there.
    torch.testing.assert_close(
        estimator.token_log_probs(terms), reading.log_probs[rows, tokens], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", HEADS)
def test_the_temperature_changes_what_is_decoded_and_no_measure(kind: str) -> None:
    estimator = estimator_for(HEADS[kind])
    at_one = estimator.read(outputs_of(kind))
    warm = estimator.read(outputs_of(kind), temperature=2.0)
    for name, values in at_one.measures.items():
        torch.testing.assert_close(warm.measures[name], values)
    torch.testing.assert_close(warm.log_probs.exp().sum(-1), torch.ones(6))
    if kind == "ensemble":  # as fairseq does it: each member first, then their mean
        tempered = [torch.log_softmax(output / 2, -1) for output in outputs_of(kind)]
        expected = torch.stack(tempered).exp().mean(0).log()
    else:
        expected = torch.log_softmax(at_one.log_probs / 2, -1)
    torch.testing.assert_close(warm.log_probs, expected)


@pytest.mark.parametrize("kind", HEADS)
def test_what_is_decoded_is_free_to_be_changed(kind: str) -> None:
    estimator = estimator_for(HEADS[kind])
    outputs = outputs_of(kind)
    kept = [output.clone() for output in outputs]
    estimator.read(outputs).log_probs.fill_(0.0)
    for output, before in zip(outputs, kept, strict=True):
        torch.testing.assert_close(output, before, rtol=0, atol=0)


def test_a_dirichlet_student_decodes_what_its_head_says() -> None:
    (logits,) = outputs_of("dirichlet")
    for predictive in ("base", "mean"):
        estimator = estimator_for([StudentHead("dirichlet", 1.0, predictive)])
        got = estimator.read([logits]).log_probs
        torch.testing.assert_close(got, predictive_log_probs(logits, 1.0, predictive))
        assert estimator.info.predictive == predictive


@pytest.mark.parametrize(
    ("kind", "bad"), [*[(kind, float("nan")) for kind in HEADS], ("dirichlet", float("inf"))]
)
def test_an_invalid_output_names_its_member(kind: str, bad: float) -> None:
    outputs = outputs_of(kind)
    outputs[-1][2, 3] = bad
    with pytest.raises(InputError, match=f"member {len(outputs)}"):
        estimator_for(HEADS[kind]).read(outputs)


def test_impossible_tokens_are_no_error_for_an_ordinary_model() -> None:
    log_probs = torch.tensor([[0.5, 0.5, 0.0]]).log()
    reading = estimator_for([None]).read([log_probs])
    torch.testing.assert_close(reading.measures["total_uncertainty"], torch.tensor([math.log(2)]))


def test_models_that_do_not_go_together() -> None:
    dirichlet = StudentHead("dirichlet", 1.0)
    with pytest.raises(InputError, match="1 of the 2 models are Dirichlet"):
        estimator_for([dirichlet, None])
    with pytest.raises(InputError, match="read in different ways"):
        estimator_for([dirichlet, StudentHead("dirichlet", 0.0)])
    with pytest.raises(InputError, match="at least one model"):
        estimator_for([])


# -- the table ------------------------------------------------------------------------------


def test_every_kind_has_the_measures_of_the_file_format() -> None:
    assert len(measures_of("ensemble")) == 9
    assert measures_of("softmax") == ("total_uncertainty", "joint_total_uncertainty_pe")
    assert set(measures_of("dirichlet")) - set(measures_of("ensemble")) == {
        "total_uncertainty_base",
        "inverse_precision",
        "joint_total_uncertainty_base",
    }
    assert all(name == measure.name for name, measure in MEASURES.items())
    assert len({measure.symbol for measure in MEASURES.values()}) == len(MEASURES)
    with pytest.raises(InputError, match="'transducer'"):
        measures_of("transducer")


def test_choosing_measures() -> None:
    assert select_measures(None) is None
    assert select_measures(" epkl,epkl , mutual_information,") == ("epkl", "mutual_information")
    assert select_measures(["epkl"]) == ("epkl",)
    with pytest.raises(InputError, match="unknown measure 'mkl'; known are total_uncertainty"):
        select_measures("epkl,mkl")
    with pytest.raises(InputError, match="got none"):
        select_measures(" , ")
