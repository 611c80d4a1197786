"""The search is fairseq's own, and the measures are those of force-decoding what it found."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from fairseq_plugins.generation import (
    UncertaintyScorer,
    UncertaintySequenceGenerator,
    build_uncertainty_generator,
)
from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.outputs import KeptRows, ProjectedRows
from tests.plugins.tiny_models import collate, tiny_batch, tiny_dictionary, tiny_model

DICTIONARY = tiny_dictionary()
LENGTHS = [1, 9, 3, 5, 2, 7, 12, 4]
KINDS = {
    "ensemble": [None, None, None],
    "softmax": [None],
    "mean distilled": [StudentHead("softmax")],
    "dirichlet base": [StudentHead("dirichlet", 1.0, "base")],
    "dirichlet mean": [StudentHead("dirichlet", 1.0, "mean")],
    "dirichlet without offset": [StudentHead("dirichlet", 0.0, "mean")],
}


def models_of(kind: str) -> list[Any]:
    return [tiny_model(seed, DICTIONARY, head) for seed, head in enumerate(KINDS[kind])]


def generator_of(models: list[Any], **settings: Any) -> UncertaintySequenceGenerator:
    defaults = {"beam_size": 5, "max_len_a": 1.2, "max_len_b": 10}
    return UncertaintySequenceGenerator(models, DICTIONARY, **(defaults | settings))


def sources(sample: dict[str, Any]) -> list[torch.Tensor]:
    return [s[s != DICTIONARY.pad()] for s in sample["net_input"]["src_tokens"]]


def scored(models: list[Any], source: torch.Tensor, tokens: torch.Tensor) -> dict[str, Any]:
    """Force-decode one hypothesis by itself, in one pass and without a batch."""
    sample = collate(DICTIONARY, [source], [tokens])
    return UncertaintyScorer(DICTIONARY).generate(models, sample)[0][0]


def assert_same_uncertainty(got: dict[str, Any], expected: dict[str, Any]) -> None:
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(got["token_log_probs"], expected["token_log_probs"], **close)
    assert got["token_uncertainty"].keys() == expected["token_uncertainty"].keys()
    for name, values in expected["token_uncertainty"].items():
        torch.testing.assert_close(got["token_uncertainty"][name], values, **close)
    assert got["uncertainty"] == pytest.approx(expected["uncertainty"], rel=1e-4, abs=1e-4)
    assert got["model"] == expected["model"]


def assert_agrees_with_forced(
    models: list[Any], sample: dict[str, Any], hypos: list[list[dict[str, Any]]]
) -> None:
    for source, candidates in zip(sources(sample), hypos, strict=True):
        for hypo in candidates:
            assert_same_uncertainty(hypo, scored(models, source, hypo["tokens"]))


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_gives_the_measures_of_force_decoding(kind: str, batch: int, beam: int) -> None:
    models = models_of(kind)
    sample = tiny_batch(DICTIONARY, LENGTHS[-batch:])
    hypos = generator_of(models, beam_size=beam).generate(models, sample)
    assert all(len(candidates) == beam for candidates in hypos)
    if batch > 1:  # sentences that leave the batch at different steps are the point
        assert len({len(candidates[-1]["tokens"]) for candidates in hypos}) > 1
    assert_agrees_with_forced(models, sample, hypos)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.7},
        {"beam_size": 1},
        {"len_penalty": 0.3, "unk_penalty": 2.0},
        {"no_repeat_ngram_size": 2},
        {"normalize_scores": False, "min_len": 4},
    ],
)
@pytest.mark.parametrize("members", [1, 3])
def test_the_search_is_the_stock_search(members: int, settings: dict[str, Any]) -> None:
    models = [tiny_model(seed, DICTIONARY) for seed in range(members)]
    sample = tiny_batch(DICTIONARY, LENGTHS)
    ours = generator_of(models, **settings)
    stock = SequenceGenerator(
        models, DICTIONARY, **({"beam_size": 5, "max_len_a": 1.2, "max_len_b": 10} | settings)
    )
    hypos = ours.generate(models, sample)
    for got, expected in zip(hypos, stock.generate(models, sample), strict=True):
        for g, e in zip(got, expected, strict=True):
            assert g["tokens"].tolist() == e["tokens"].tolist()
            torch.testing.assert_close(g["score"], e["score"], rtol=1e-5, atol=1e-5)
            for key in ("positional_scores", "attention"):
                torch.testing.assert_close(g[key], e[key], rtol=1e-4, atol=1e-5)
    # Whatever the search was under, the measures are the models' own at temperature 1.
    assert_agrees_with_forced(models, sample, hypos)


@pytest.mark.parametrize("kind", ["ensemble", "dirichlet mean"])
@pytest.mark.parametrize("beam", [1, 4])
def test_prefixes_also_those_that_end_the_sentence(kind: str, beam: int) -> None:
    models = models_of(kind)
    sample = tiny_batch(DICTIONARY, [3, 6, 2, 4])
    eos, pad = DICTIONARY.eos(), DICTIONARY.pad()
    prefixes = torch.tensor([[7, 9, eos], [8, pad, pad], [5, 6, 10], [11, eos, pad]])
    hypos = generator_of(models, beam_size=beam).generate(models, sample, prefix_tokens=prefixes)
    for prefix, candidates in zip(prefixes, hypos, strict=True):
        wanted = prefix[prefix != pad].tolist()
        assert all(hypo["tokens"].tolist()[: len(wanted)] == wanted for hypo in candidates)
    assert_agrees_with_forced(models, sample, hypos)


@pytest.mark.parametrize("kind", ["softmax", "ensemble", "dirichlet base"])
@pytest.mark.parametrize("topk", [-1, 4])
def test_sampling(kind: str, topk: int) -> None:
    models = models_of(kind)
    sample = tiny_batch(DICTIONARY, LENGTHS)
    task = SimpleNamespace(target_dictionary=DICTIONARY)
    args = Namespace(beam=3, nbest=3, sampling=True, sampling_topk=topk, max_len_a=1, max_len_b=9)
    torch.manual_seed(4)
    generator = build_uncertainty_generator(task, models, args)
    assert generator.n_best == 3
    assert_agrees_with_forced(models, sample, generator.generate(models, sample))


def test_diverse_beams() -> None:
    models = models_of("ensemble")
    sample = tiny_batch(DICTIONARY, LENGTHS)
    args = Namespace(beam=4, diverse_beam_groups=2, diverse_beam_strength=0.5, max_len_b=12)
    generator = build_uncertainty_generator(
        SimpleNamespace(target_dictionary=DICTIONARY), models, args
    )
    assert_agrees_with_forced(models, sample, generator.generate(models, sample))


def test_alignment_is_printed_as_by_stock_fairseq() -> None:
    models = models_of("ensemble")
    task = SimpleNamespace(target_dictionary=DICTIONARY)
    args = Namespace(beam=2, print_alignment="hard", max_len_a=1, max_len_b=8)
    generator = build_uncertainty_generator(task, models, args)
    sample = tiny_batch(DICTIONARY, [3, 6, 4])
    hypos = generator.generate(models, sample)
    assert all(isinstance(hypo["alignment"], list | torch.Tensor) for c in hypos for hypo in c)
    assert_agrees_with_forced(models, sample, hypos)


def test_batches_follow_each_other() -> None:
    models = models_of("ensemble")
    generator = generator_of(models)
    for seed, lengths in enumerate([[3, 8], [2, 5, 9], [4]]):
        sample = tiny_batch(DICTIONARY, lengths, seed)
        assert_agrees_with_forced(models, sample, generator.generate(models, sample))


def test_a_member_with_nan_is_named_with_the_step() -> None:
    models = models_of("ensemble")
    original = models[1].decoder.forward

    def broken(tokens: torch.Tensor, **kwargs: Any) -> Any:
        logits, extra = original(tokens, **kwargs)
        return (logits * float("nan") if tokens.shape[1] == 3 else logits), extra

    models[1].decoder.forward = broken
    sample = tiny_batch(DICTIONARY, LENGTHS)
    with pytest.raises(InputError, match=r"at decoding step 3: .*member 2"):
        generator_of(models, min_len=6).generate(models, sample)


@pytest.mark.parametrize("kind", ["softmax", "dirichlet base"])
def test_one_model_with_nan(kind: str) -> None:
    models = models_of(kind)
    with torch.no_grad():
        models[0].decoder.output_projection.weight[5].fill_(float("nan"))
    with pytest.raises(InputError, match="at decoding step 1: NaN"):
        generator_of(models).generate(models, tiny_batch(DICTIONARY, [3]))


def test_a_dirichlet_student_beside_other_models_is_refused() -> None:
    head = StudentHead("dirichlet", 1.0)
    models = [tiny_model(0, DICTIONARY, head), tiny_model(1, DICTIONARY)]
    with pytest.raises(InputError, match="decoded alone"):
        build_uncertainty_generator(
            SimpleNamespace(target_dictionary=DICTIONARY), models, Namespace(beam=2)
        )


def test_heads_attached_after_the_generator_was_built_count() -> None:
    models = models_of("softmax")
    generator = generator_of(models)
    models[0].student_head = StudentHead("dirichlet", 1.0)
    (candidates,) = generator.generate(models, tiny_batch(DICTIONARY, [3]))
    assert candidates[0]["model"].kind == "dirichlet"


@pytest.mark.parametrize("kind", KINDS)
def test_between_steps_no_row_of_a_vocabulary_is_kept(kind: str) -> None:
    models = models_of(kind)
    generator = generator_of(models)
    generator.generate(models, tiny_batch(DICTIONARY, LENGTHS))
    kept = generator.model.history.outputs
    assert len(kept) == len(models)
    for rows, model in zip(kept, models, strict=True):
        assert isinstance(rows, ProjectedRows)
        assert rows.weight is model.decoder.output_projection.weight
        assert rows.features.shape[1] < len(DICTIONARY)


def test_models_whose_outputs_are_not_plain_projections_keep_them() -> None:
    models = models_of("ensemble")
    sample = tiny_batch(DICTIONARY, LENGTHS)
    expected = generator_of(models).generate(models, sample)

    class Shifted(type(models[0])):  # type: ignore[misc]
        def get_normalized_probs(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().get_normalized_probs(*args, **kwargs)

    for model in models:
        model.__class__ = Shifted
    generator = generator_of(models)
    found = generator.generate(models, sample)
    assert all(isinstance(rows, KeptRows) for rows in generator.model.history.outputs)
    for got, wanted in zip(found, expected, strict=True):
        for g, e in zip(got, wanted, strict=True):
            assert_same_uncertainty(g, e)
