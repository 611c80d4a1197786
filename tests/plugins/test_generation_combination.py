"""Searching and scoring under EP: what it finds, and measures that stay with their tokens."""

import math
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.token_generation_constraints import pack_constraints

from fairseq_plugins.generation import (
    UncertaintyScorer,
    UncertaintySequenceGenerator,
    build_uncertainty_generator,
)
from seqdistill.errors import InputError
from seqdistill.hypotheses import read_hypotheses
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import UncertaintyOptions
from seqdistill.uncertainty.measures import available_measures
from tests.plugins.corpus import Corpus, run
from tests.plugins.tiny_models import collate, tiny_batch, tiny_dictionary, tiny_model
from tests.reference.sequences import ensemble_measures

# fairseq's attention gives torch masks of two types.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

DICTIONARY = tiny_dictionary()
TASK = SimpleNamespace(source_dictionary=DICTIONARY, target_dictionary=DICTIONARY)
LENGTHS = [1, 7, 3, 5]
PE, EP = (UncertaintyOptions(("all",), combination) for combination in ("pe", "ep"))
DRAWN = UncertaintyOptions(("all",), dirichlet_samples=6, dirichlet_seed=2)
STUDENT = StudentHead("dirichlet", 1.0)


def members(count: int = 3) -> list[Any]:
    return [tiny_model(seed, DICTIONARY) for seed in range(count)]


def kinds() -> dict[str, tuple[list[Any], UncertaintyOptions]]:
    return {
        "pe": (members(), PE),
        "ep": (members(), EP),
        "softmax": (members(1), EP),
        "drawn": ([tiny_model(0, DICTIONARY, STUDENT)], DRAWN),
        "students": ([tiny_model(seed, DICTIONARY, STUDENT) for seed in range(2)], PE),
    }


def decode(models: list[Any], options: UncertaintyOptions, **settings: Any) -> Any:
    sample = tiny_batch(DICTIONARY, LENGTHS)
    defaults = {"beam_size": 4, "max_len_a": 1.2, "max_len_b": 8}
    generator = UncertaintySequenceGenerator(
        models, DICTIONARY, options=options, **(defaults | settings)
    )
    return sample, generator.generate(models, sample)


def member_rows(models: list[Any], source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(M, L, V) float64 log-probabilities along a hypothesis, by one plain forward pass each."""
    net_input = collate(DICTIONARY, [source], [tokens])["net_input"]
    with torch.no_grad():
        return torch.stack(
            [torch.log_softmax(model(**net_input)[0][0].double(), dim=-1) for model in models]
        )


def of_sources(sample: dict[str, Any], hypos: list[list[Any]]) -> list[tuple[torch.Tensor, Any]]:
    sources = [s[s != DICTIONARY.pad()] for s in sample["net_input"]["src_tokens"]]
    return [(s, h) for s, found in zip(sources, hypos, strict=True) for h in found]


def assert_aligned(
    models: list[Any], options: UncertaintyOptions, sample: dict[str, Any], hypos: Any
) -> None:
    """Every number is that of force-decoding the hypothesis by itself."""
    scorer = UncertaintyScorer(DICTIONARY, options=options)
    close = {"rtol": 1e-4, "atol": 2e-4}
    for source, hypo in of_sources(sample, hypos):
        ((expected,),) = scorer.generate(models, collate(DICTIONARY, [source], [hypo["tokens"]]))
        assert hypo["model"] == expected["model"]
        torch.testing.assert_close(hypo["token_log_probs"], expected["token_log_probs"], **close)
        assert hypo["token_uncertainty"].keys() == expected["token_uncertainty"].keys()
        for name, values in expected["token_uncertainty"].items():
            torch.testing.assert_close(hypo["token_uncertainty"][name], values, **close)
        assert hypo["uncertainty"] == pytest.approx(expected["uncertainty"], rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("options", [PE, EP], ids=["pe", "ep"])
@pytest.mark.parametrize("beam", [1, 4])
def test_a_search_gives_every_measure_of_the_reference(
    options: UncertaintyOptions, beam: int
) -> None:
    models = members()
    sample, hypos = decode(models, options, beam_size=beam)
    for source, hypo in of_sources(sample, hypos):
        rows = member_rows(models, source, hypo["tokens"])
        of_tokens, of_sequence, log_probs = ensemble_measures(
            rows.tolist(), hypo["tokens"].tolist(), options.combination
        )
        assert hypo["token_log_probs"].tolist() == pytest.approx(log_probs, rel=1e-4, abs=1e-4)
        assert hypo["token_uncertainty"].keys() == of_tokens.keys()
        for name, values in of_tokens.items():
            assert hypo["token_uncertainty"][name].tolist() == pytest.approx(
                values, rel=1e-3, abs=1e-4
            ), name
        assert hypo["uncertainty"] == pytest.approx(of_sequence, rel=1e-3, abs=1e-3)


def test_an_ep_search_ranks_by_the_mean_of_the_members_probabilities() -> None:
    models = members()
    sample, hypos = decode(models, EP, normalize_scores=False)
    for source, hypo in of_sources(sample, hypos):
        rows = member_rows(models, source, hypo["tokens"])
        of_members = rows[:, range(len(hypo["tokens"])), hypo["tokens"]].sum(-1)
        expected = float(torch.logsumexp(of_members, 0)) - math.log(3)
        assert float(hypo["score"]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert float(hypo["token_log_probs"].sum()) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert hypo["model"].predictive == "ep"


def test_ep_finds_other_hypotheses_than_pe_and_better_ones_by_its_own_measure() -> None:
    models = members()
    _, of_pe = decode(models, PE, normalize_scores=False)
    _, of_ep = decode(models, EP, normalize_scores=False)
    name = "unnormalised_joint_total_uncertainty_ep"
    best = [(ep[0], pe[0]) for ep, pe in zip(of_ep, of_pe, strict=True)]
    assert any(ep["tokens"].tolist() != pe["tokens"].tolist() for ep, pe in best)
    pairs = [(ep["uncertainty"][name], pe["uncertainty"][name]) for ep, pe in best]
    assert sum(ep for ep, _ in pairs) < sum(pe for _, pe in pairs)


@pytest.mark.parametrize("count", [1, 3])
def test_members_alike_search_as_one(count: int) -> None:
    alike = [tiny_model(4, DICTIONARY) for _ in range(count)]
    _, expected = decode([tiny_model(4, DICTIONARY)], PE)
    for options in (PE, EP):
        _, hypos = decode(alike, options)
        for got, one in zip(hypos, expected, strict=True):
            for g, e in zip(got, one, strict=True):
                assert g["tokens"].tolist() == e["tokens"].tolist()
                torch.testing.assert_close(g["score"], e["score"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.6}, {"no_repeat_ngram_size": 2}])
def test_beams_keep_their_numbers(kind: str, settings: dict[str, Any]) -> None:
    models, options = kinds()[kind]
    sample, hypos = decode(models, options, **settings)
    assert_aligned(models, options, sample, hypos)
    best = hypos[0][0]
    expected = set(available_measures(best["model"].kind, samples=kind == "drawn"))
    if kind == "students":  # the research code has no measures of several
        expected = {name for name in expected if "official_" not in name}
    assert set(best["uncertainty"]) == expected


def generate(kind: str, args: Namespace, sample: dict[str, Any], **given: Any) -> None:
    models, options = kinds()[kind]
    torch.manual_seed(4)
    generator = build_uncertainty_generator(TASK, models, args, options)
    hypos = generator.generate(models, sample, **given)
    assert_aligned(models, options, sample, hypos)


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("sampling", [{"sampling_topk": 4}, {"sampling_topp": 0.8}, {}])
def test_sampling(kind: str, sampling: dict[str, Any]) -> None:
    args = Namespace(beam=3, sampling=True, max_len_a=1, max_len_b=7, **sampling)
    generate(kind, args, tiny_batch(DICTIONARY, LENGTHS))


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize(
    "diversity",
    [{"diverse_beam_groups": 2, "diverse_beam_strength": 0.7}, {"diversity_rate": 0.5}],
)
def test_diverse_beams(kind: str, diversity: dict[str, Any]) -> None:
    args = Namespace(beam=4, max_len_a=1, max_len_b=7, **diversity)
    generate(kind, args, tiny_batch(DICTIONARY, LENGTHS))


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("beam", [1, 4])
def test_prefixes_also_those_that_end_the_sentence(kind: str, beam: int) -> None:
    eos, pad = DICTIONARY.eos(), DICTIONARY.pad()
    prefixes = torch.tensor([[7, 9, eos], [8, pad, pad], [5, 6, 10], [11, eos, pad]])
    args = Namespace(beam=beam, max_len_a=1, max_len_b=7)
    generate(kind, args, tiny_batch(DICTIONARY, [3, 6, 2, 4]), prefix_tokens=prefixes)


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("order", ["ordered", "unordered"])
def test_constraints(kind: str, order: str) -> None:
    wanted = [[torch.tensor([7, 9])], [torch.tensor([8]), torch.tensor([5])], []]
    sample = tiny_batch(DICTIONARY, [3, 6, 4])
    models, options = kinds()[kind]
    args = Namespace(beam=4, constraints=order, max_len_a=1, max_len_b=9)
    generator = build_uncertainty_generator(TASK, models, args, options)
    hypos = generator.generate(models, sample, constraints=pack_constraints(wanted))
    assert [7, 9] in [
        hypos[0][0]["tokens"].tolist()[n : n + 2] for n in range(len(hypos[0][0]["tokens"]))
    ]
    assert_aligned(models, options, sample, hypos)


def test_a_score_does_not_depend_on_the_batch() -> None:
    models, sample = members(), tiny_batch(DICTIONARY, LENGTHS, with_target=True)
    scorer = UncertaintyScorer(DICTIONARY, options=EP)
    together = scorer.generate(models, sample)
    pad = DICTIONARY.pad()
    for row, (got,) in enumerate(together):
        source, target = sample["net_input"]["src_tokens"][row], sample["target"][row]
        alone = collate(DICTIONARY, [source[source != pad]], [target[target != pad]])
        ((expected,),) = scorer.generate(models, alone)
        assert got["uncertainty"] == pytest.approx(expected["uncertainty"], rel=1e-4, abs=1e-4)
        torch.testing.assert_close(
            got["token_confidence"], expected["token_confidence"], rtol=1e-4, atol=1e-5
        )


def test_a_student_is_not_searched_under_ep() -> None:
    student = [tiny_model(0, DICTIONARY, STUDENT)]
    args = Namespace(beam=2)
    generator = build_uncertainty_generator(TASK, student, args, UncertaintyOptions(None, "ep"))
    with pytest.raises(InputError, match="no members to combine"):
        generator.generate(student, tiny_batch(DICTIONARY, [3]))


def test_the_real_program_under_ep(corpus: Corpus, tmp_path: Path) -> None:
    common = [corpus.data, "--path", corpus.ensemble_paths, "--batch-size", 4, "--cpu", "--quiet"]
    common += ["--ensemble-combination", "ep", "--uncertainty-measures", "all"]
    common += ["--num-workers", 0]
    found = {}
    for name, options in {
        "searched": ["--beam", 2, "--max-len-b", 9],
        "forced": ["--score-reference"],
    }.items():
        output = tmp_path / f"{name}.jsonl"
        result = run(
            "seqdistill-fairseq-generate", *common, *options, "--uncertainty-output", output
        )
        assert result.returncode == 0, result.stderr
        found[name] = list(read_hypotheses(output))
    for name, hypotheses in found.items():
        assert len(hypotheses) == 8
        for hypothesis in hypotheses:
            assert hypothesis.model.predictive == "ep"
            assert hypothesis.forced is (name == "forced")
            assert set(hypothesis.uncertainty) == set(available_measures("ensemble"))
            assert -hypothesis.log_prob == pytest.approx(
                hypothesis.uncertainty["unnormalised_joint_total_uncertainty_ep"], rel=1e-4
            )
