"""PE and EP against plain loops for every measure, their identities, and where they meet."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.uncertainty.estimators import Estimator, UncertaintyOptions, estimator_for
from seqdistill.uncertainty.measures import (
    MEASURES,
    available_measures,
    measures_of,
    resolve_measures,
    select_measures,
)
from seqdistill.uncertainty.mixtures import LogMixture, ep_token_log_probs
from tests.reference.sequences import ensemble_measures


def members_of(seed: int, M: int, L: int, V: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((M, L, V), generator=generator, dtype=torch.float64)
    return torch.log_softmax(scale * noise, dim=-1)


def measured(
    estimator: Estimator, members: Tensor, tokens: Tensor, temperature: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Read position after position as a search does; L positions, (M, L, V)."""
    L = len(tokens)
    prefix = torch.zeros(len(members), 1, dtype=torch.float64)
    readings, terms = [], []
    for position in range(L):
        outputs = [member[position].unsqueeze(0) for member in members]
        readings.append(estimator.read(outputs, temperature, prefix if position else None))
        token, row = tokens[position : position + 1], torch.tensor([0])
        here = torch.cat([estimator.token_terms(output, token, row) for output in outputs])
        terms.append(here)
        prefix = prefix + here
    of_members = torch.cat(terms, dim=-1)
    measures = {
        name: torch.cat([reading.measures[name] for reading in readings])
        for name in estimator.token_measures
    }
    return (
        estimator.token_uncertainty(measures, of_members),
        estimator.sequence_measures(measures, of_members),
        estimator.token_log_probs(of_members),
        torch.cat([reading.log_probs for reading in readings]),
    )


@pytest.mark.parametrize("combination", ["pe", "ep"])
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 7), st.integers(2, 9))
@settings(max_examples=40)
def test_every_measure_is_its_formula(combination: str, seed: int, M: int, L: int, V: int) -> None:
    members = members_of(seed, M, L, V)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (L,), generator=generator)
    options = UncertaintyOptions(measures=("all",), combination=combination)
    of_tokens, of_sequence, log_probs, decoded = measured(
        estimator_for([None] * M, options), members, tokens
    )
    expected = ensemble_measures(members.tolist(), tokens.tolist(), combination)
    close = {"rtol": 1e-9, "abs": 1e-11}
    assert set(of_sequence) == set(expected[1]) == set(available_measures("ensemble"))
    assert set(of_tokens) == set(expected[0])
    for name, values in expected[0].items():
        assert of_tokens[name].tolist() == pytest.approx(values, rel=1e-9, abs=1e-11), name
    for name, value in expected[1].items():
        assert float(of_sequence[name]) == pytest.approx(value, rel=1e-9, abs=1e-11), name
    assert log_probs.tolist() == pytest.approx(expected[2], rel=1e-9)
    assert decoded[range(L), tokens].tolist() == pytest.approx(expected[2], rel=close["rtol"])
    torch.testing.assert_close(decoded.exp().sum(-1), torch.ones(L, dtype=torch.float64))


def test_values_by_hand() -> None:
    # Two members on two pieces; the first token is the first piece: weights 0.8 and 0.2 after it.
    members = torch.tensor([[[0.8, 0.2], [0.9, 0.1]], [[0.2, 0.8], [0.4, 0.6]]])
    options = UncertaintyOptions(measures=("all",), combination="ep")
    of_tokens, of_sequence, log_probs, decoded = measured(
        estimator_for([None, None], options), members.double().log(), torch.tensor([0, 0])
    )
    torch.testing.assert_close(
        decoded.exp(), torch.tensor([[0.5, 0.5], [0.8, 0.2]], dtype=torch.float64)
    )
    assert log_probs.exp().tolist() == pytest.approx([0.5, 0.8])
    assert float(of_sequence["unnormalised_joint_total_uncertainty_ep"]) == pytest.approx(
        -math.log((0.8 * 0.9 + 0.2 * 0.4) / 2)
    )
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert of_tokens["total_uncertainty_ep"].tolist() == pytest.approx([math.log(2), entropy])
    assert of_tokens["negative_log_max_probability"].tolist() == pytest.approx(
        [math.log(2), -math.log(0.8)]
    )
    rmi = 0.8 * math.log(0.8 / math.sqrt(0.36)) + 0.2 * math.log(0.2 / math.sqrt(0.06))
    assert float(of_tokens["reverse_mutual_information_ep"][1]) == pytest.approx(rmi)
    scores = [math.log(0.72) / 2, math.log(0.08) / 2]
    assert float(of_sequence["member_score_variance"]) == pytest.approx(
        ((scores[0] - scores[1]) / 2) ** 2
    )


def test_mutual_information_under_ep_can_fall_below_zero() -> None:
    """The prefix favours a member that is sure, and DU goes on counting the other in full."""
    members = torch.tensor([[[0.99, 0.01], [0.99, 0.01]], [[0.01, 0.99], [0.5, 0.5]]]).log()
    options = UncertaintyOptions(measures=("mutual_information_ep",))
    of_tokens, *_ = measured(estimator_for([None, None], options), members, torch.tensor([0, 0]))
    assert set(of_tokens) == {"mutual_information_ep"}
    assert of_tokens["mutual_information_ep"][1] < -0.2


@pytest.mark.parametrize("M", [2, 4])
def test_members_alike_are_one_member(M: int) -> None:
    one = members_of(3, 1, 6, 11)
    tokens = torch.tensor([1, 4, 0, 10, 2, 2])
    every = {}
    for combination in ("pe", "ep"):
        options = UncertaintyOptions(measures=("all",), combination=combination)
        every[combination] = measured(
            estimator_for([None] * M, options), one.expand(M, 6, 11), tokens
        )
    single = measured(estimator_for([None], UncertaintyOptions(("all",))), one, tokens)
    for combination in ("pe", "ep"):
        of_tokens, of_sequence, log_probs, decoded = every[combination]
        torch.testing.assert_close(log_probs, single[2])
        torch.testing.assert_close(decoded, single[3])
        for name, values in of_tokens.items():
            if MEASURES[name].kind == "knowledge":
                torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-12)
            else:
                base = name.removesuffix("_ep").replace("data_uncertainty", "total_uncertainty")
                torch.testing.assert_close(values, single[0][base])
        for name in ("joint_total_uncertainty_pe", "joint_total_uncertainty_ep"):
            torch.testing.assert_close(of_sequence[name], single[1]["joint_total_uncertainty_pe"])
        assert float(of_sequence["member_score_variance"]) < 1e-25


def test_one_ordinary_model_is_the_same_under_both_combinations() -> None:
    members, tokens = members_of(1, 1, 4, 7), torch.tensor([0, 3, 6, 1])
    found = [
        measured(estimator_for([None], UncertaintyOptions(("all",), combination)), members, tokens)
        for combination in ("pe", "ep")
    ]
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
    torch.testing.assert_close(found[0][3], found[1][3], rtol=0, atol=0)


def test_prefixes_of_a_thousand_nats_leave_the_digits_alone() -> None:
    log_probs = torch.log_softmax(torch.randn(3, 1, 50, dtype=torch.float64), -1)
    weights = torch.tensor([[-1000.0], [-1001.5], [-2000.0]], dtype=torch.float64)
    narrow, wide = LogMixture(), LogMixture()
    for member, weight in zip(log_probs, weights, strict=True):
        narrow.add(member.float(), weight)
        wide.add(member, weight + 1000)
    expected = torch.logsumexp(log_probs + torch.log_softmax(weights, dim=0).unsqueeze(-1), dim=0)
    torch.testing.assert_close(wide.log_probs(), expected)
    torch.testing.assert_close(narrow.log_probs().double(), expected, rtol=0, atol=2e-6)


def test_a_prefix_that_members_find_impossible() -> None:
    log_probs = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
    for weights, expected in (
        ([-math.inf, -3.0], [0.5, 0.5]),
        ([-3.0, -math.inf], [0.9, 0.1]),
        ([-math.inf, -math.inf], [0.7, 0.3]),
    ):
        mixture = LogMixture()
        for member, weight in zip(log_probs, weights, strict=True):
            mixture.add(member, torch.tensor([weight]))
        torch.testing.assert_close(mixture.log_probs().exp(), torch.tensor([expected]))


def test_the_tokens_of_an_ep_hypothesis_multiply_to_its_probability() -> None:
    terms = members_of(5, 4, 30, 3)[..., 0].unsqueeze(1).expand(4, 2, 30)
    got = ep_token_log_probs(terms)
    expected = torch.logsumexp(terms.sum(-1), dim=0) - math.log(4)
    torch.testing.assert_close(got.sum(-1), expected)


def test_a_search_at_another_temperature_keeps_the_measures() -> None:
    members, tokens = members_of(7, 3, 5, 8), torch.tensor([0, 3, 6, 1, 1])
    for combination in ("pe", "ep"):
        estimator = estimator_for([None] * 3, UncertaintyOptions(("all",), combination))
        cold = measured(estimator, members, tokens)
        warm = measured(estimator, members, tokens, temperature=1.8)
        for one, other in zip(cold[:2], warm[:2], strict=True):
            for name in one:
                torch.testing.assert_close(one[name], other[name])
        assert not torch.allclose(cold[3], warm[3])
        torch.testing.assert_close(warm[3].exp().sum(-1), torch.ones(5, dtype=torch.float64))


def test_only_what_was_chosen_is_computed() -> None:
    estimator = estimator_for([None] * 2, UncertaintyOptions(("unnormalised_epkl_ep", "epkl")))
    assert estimator.token_measures == ("epkl", "epkl_ep")
    assert estimator.needs_prefix
    of_tokens, of_sequence, *_ = measured(
        estimator, members_of(1, 2, 3, 4), torch.tensor([0, 1, 2])
    )
    assert set(of_tokens) == {"epkl"}
    assert list(of_sequence) == ["unnormalised_epkl_ep", "epkl"]
    assert not estimator_for([None] * 2).needs_prefix
    joint = estimator_for([None] * 2, UncertaintyOptions(("joint_total_uncertainty_ep",)))
    assert joint.token_measures == ()
    assert not joint.needs_prefix


def test_padding_is_not_counted_in_sums() -> None:
    estimator = estimator_for([None], UncertaintyOptions(("unnormalised_total_uncertainty",)))
    values = torch.tensor([[1.0, 2.0, float("nan")], [4.0, 8.0, 16.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    got = estimator.sequence_measures(
        {"total_uncertainty": values}, torch.zeros(1, 2, 3), token_mask=mask
    )
    assert got["unnormalised_total_uncertainty"].tolist() == [3.0, 28.0]


# -- choices ---------------------------------------------------------------------------------


def test_words_for_many_measures() -> None:
    assert select_measures("all") == ("all",)
    assert resolve_measures(None, "ensemble") == measures_of("ensemble")
    assert resolve_measures(("default",), "dirichlet") == measures_of("dirichlet")
    assert resolve_measures(("all",), "softmax") == available_measures("softmax")
    assert resolve_measures(("entropy", "all"), "softmax")[0] == "entropy"
    sampled = resolve_measures(None, "dirichlet", samples=True)
    assert set(sampled) - set(measures_of("dirichlet")) == {
        "joint_total_uncertainty_ep",
        "joint_reverse_mutual_information_ep",
    }


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        (("inverse_precision",), "ensemble", "kind ensemble has no inverse_precision; it has tot"),
        (("epkl_ep",), "dirichlet", "kind dirichlet has no epkl_ep"),
        (("joint_total_uncertainty_ep",), "dirichlet", "say how many with --dirichlet-samples"),
        (("epkl",), "transducer", "'transducer'"),
    ],
)
def test_measures_that_a_kind_does_not_have(
    wanted: tuple[str, ...], kind: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resolve_measures(wanted, kind)


@pytest.mark.parametrize(
    ("settings_given", "message"),
    [
        ({"combination": "both"}, "pe or ep, got 'both'"),
        ({"dirichlet_samples": 1}, "at least 2, got 1"),
        ({"dirichlet_samples": -3}, "got -3"),
        ({"dirichlet_seed": -1}, "seed of 0 or above"),
    ],
)
def test_options_that_make_no_sense(settings_given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        UncertaintyOptions(**settings_given)  # type: ignore[arg-type]


def test_the_table_is_whole() -> None:
    for name, measure in MEASURES.items():
        assert name == measure.name
        assert measure.formula
        assert measure.source
        assert set(measure.default_for) <= set(measure.needs)
        assert measure.combination in ("pe", "ep", None)
        assert measure.level == "sequence" or measure.estimate == "chain-rule"
    assert [n for n, m in MEASURES.items() if not m.higher_is_more_uncertain] == [
        "official_mutual_information"
    ]
