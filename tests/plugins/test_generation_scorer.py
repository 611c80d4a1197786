"""Force-decoded targets: padding, confidence, correctness, and what stock fairseq scores."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.sequence_scorer import SequenceScorer

from fairseq_plugins.generation import (
    SecondSystem,
    UncertaintyScorer,
    build_uncertainty_generator,
)
from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import UncertaintyOptions
from tests.plugins.tiny_models import collate, tiny_batch, tiny_dictionary, tiny_model

# fairseq's attention gives torch masks of two types.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

DICTIONARY = tiny_dictionary()
LENGTHS = [1, 9, 3, 5]
HEADS = {
    "ensemble": [None, None, None],
    "softmax": [None],
    "dirichlet": [StudentHead("dirichlet", 1.0, "mean")],
}


def models_of(kind: str) -> list[Any]:
    return [tiny_model(seed, DICTIONARY, head) for seed, head in enumerate(HEADS[kind])]


def score(models: list[Any], sample: dict[str, Any]) -> list[dict[str, Any]]:
    return [hypos[0] for hypos in UncertaintyScorer(DICTIONARY).generate(models, sample)]


@pytest.mark.parametrize("kind", HEADS)
def test_padding_changes_nothing(kind: str) -> None:
    models = models_of(kind)
    sample = tiny_batch(DICTIONARY, LENGTHS, with_target=True)
    pad = DICTIONARY.pad()
    for row, together in enumerate(score(models, sample)):
        source = sample["net_input"]["src_tokens"][row]
        target = sample["target"][row]
        alone = collate(DICTIONARY, [source[source != pad]], [target[target != pad]])
        (expected,) = score(models, alone)
        assert together["tokens"].tolist() == target[target != pad].tolist()
        assert together["uncertainty"] == pytest.approx(expected["uncertainty"], abs=1e-5)
        for key in ("token_log_probs", "token_confidence"):
            torch.testing.assert_close(together[key], expected[key], rtol=1e-4, atol=1e-5)
        assert together["token_correct"].tolist() == expected["token_correct"].tolist()
        for name, values in expected["token_uncertainty"].items():
            got = together["token_uncertainty"][name]
            torch.testing.assert_close(got, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ensemble", "softmax"])
def test_scores_are_those_of_the_stock_scorer(kind: str) -> None:
    models = models_of(kind)
    sample = tiny_batch(DICTIONARY, LENGTHS, with_target=True)
    expected = SequenceScorer(DICTIONARY).generate(models, sample)
    for got, (stock,) in zip(score(models, sample), expected, strict=True):
        assert got["tokens"].tolist() == stock["tokens"].tolist()
        torch.testing.assert_close(got["score"], stock["score"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            got["positional_scores"], stock["positional_scores"], rtol=1e-4, atol=1e-5
        )


def test_confidence_and_correctness() -> None:
    models = models_of("ensemble")
    sample = tiny_batch(DICTIONARY, [4], with_target=True)
    with torch.no_grad():
        members = [m(**sample["net_input"])[0][0].softmax(-1) for m in models]
    mixture = torch.stack(members).mean(dim=0)
    (got,) = score(models, sample)
    torch.testing.assert_close(got["token_confidence"], mixture.max(dim=-1).values)
    assert got["token_correct"].tolist() == (mixture.argmax(-1) == sample["target"][0]).tolist()
    assert got["forced"] is True


def test_positions_before_the_start_index_do_not_count() -> None:
    models = models_of("ensemble")
    sample = tiny_batch(DICTIONARY, [4, 6], with_target=True)
    whole = score(models, sample)
    sample["start_indices"] = [2, 0]
    first, second = score(models, sample)
    assert first["tokens"].tolist() == whole[0]["tokens"].tolist()[2:]
    torch.testing.assert_close(first["token_log_probs"], whole[0]["token_log_probs"][2:])
    assert second["uncertainty"] == whole[1]["uncertainty"]


def test_printing_in_base_2_leaves_the_log_probabilities_alone() -> None:
    models = models_of("softmax")
    (got,) = score(models, tiny_batch(DICTIONARY, [4], with_target=True))
    before = got["token_log_probs"].clone()
    got["positional_scores"].div_(0.5)
    torch.testing.assert_close(got["token_log_probs"], before)


def test_a_set_without_targets() -> None:
    with pytest.raises(InputError, match="has none"):
        score(models_of("softmax"), tiny_batch(DICTIONARY, [4]))


def test_nan_names_the_member() -> None:
    models = models_of("ensemble")
    with torch.no_grad():
        models[2].decoder.output_projection.weight[0].fill_(float("nan"))
    with pytest.raises(InputError, match="member 3"):
        score(models, tiny_batch(DICTIONARY, [4], with_target=True))


def test_a_second_system_may_not_find_possible_what_the_first_rules_out() -> None:
    (model,) = models_of("softmax")
    sample = tiny_batch(DICTIONARY, [4], with_target=True)
    second = SecondSystem([tiny_model(7, DICTIONARY)], UncertaintyOptions())
    scorer = UncertaintyScorer(DICTIONARY, against=second)
    ((found,),) = scorer.generate([model], sample)
    assert bool(found["token_kl_divergence"].isfinite().all())
    normal = model.get_normalized_probs

    def ruled_out(*args: Any, **kwargs: Any) -> torch.Tensor:
        return normal(*args, **kwargs).index_fill(
            -1, torch.tensor([DICTIONARY.nspecial]), -math.inf
        )

    model.get_normalized_probs = ruled_out
    with pytest.raises(InputError, match=r"infinite at \d+ tokens of a batch"):
        scorer.generate([model], sample)


def test_only_given_texts_have_a_second_system_or_temperatures() -> None:
    task = SimpleNamespace(target_dictionary=DICTIONARY)
    second = SecondSystem([tiny_model(7, DICTIONARY)], UncertaintyOptions())
    for more in ({"against": second}, {"temperatures": (1.0,)}):
        with pytest.raises(InputError, match="are for given texts; add --score-reference"):
            build_uncertainty_generator(task, models_of("softmax"), SimpleNamespace(), **more)
