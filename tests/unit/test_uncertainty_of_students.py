"""Several Dirichlet students: their mixture against sampling, and one student twice."""

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import Estimator, UncertaintyOptions, estimator_for
from seqdistill.uncertainty.measures import MEASURES, available_measures

EVERY = UncertaintyOptions(("all",))


def logits_of(seed: int, rows: int = 4, V: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn((rows, V), generator=generator, dtype=torch.float64)


def measured(
    estimator: Estimator, outputs: list[Tensor], tokens: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    reading = estimator.read(outputs)
    rows = torch.arange(len(tokens))
    terms = torch.cat([estimator.token_terms(output, tokens, rows, rows) for output in outputs])
    return (
        estimator.token_uncertainty(reading.measures, terms),
        estimator.sequence_measures(reading.measures, terms),
        estimator.token_log_probs(terms),
    )


@pytest.mark.parametrize("offset", [1.0, 0.0])
def test_token_measures_are_those_of_members_drawn_from_the_mixture(offset: float) -> None:
    students = [logits_of(seed) for seed in range(3)]
    estimator = estimator_for([StudentHead("dirichlet", offset, "mean")] * 3, EVERY)
    tokens = torch.tensor([0, 5, 2, 2])
    of_tokens, of_sequence, log_probs = measured(estimator, students, tokens)
    torch.manual_seed(0)
    S = 60_000
    drawn = torch.cat(
        [torch.distributions.Dirichlet(z.exp() + offset).sample((S,)) for z in students]
    )
    log_drawn = drawn.clamp_min(1e-300).log()
    mean, expected_log = drawn.mean(0), log_drawn.mean(0)
    total = -(mean * mean.log()).sum(-1)
    data = -(drawn * log_drawn).sum(-1).mean(0)
    rmi = (mean * (mean.log() - expected_log)).sum(-1)
    for name, expected in {
        "total_uncertainty": total,
        "data_uncertainty": data,
        "mutual_information": total - data,
        "reverse_mutual_information": rmi,
        "epkl": total - data + rmi,
    }.items():
        torch.testing.assert_close(of_tokens[name], expected, rtol=0.03, atol=0.01, msg=name)
    of_mean = mean[range(4), tokens].log()
    torch.testing.assert_close(log_probs, of_mean, rtol=0.02, atol=0.01)
    joint_rmi = (of_mean - expected_log[range(4), tokens]).mean()
    assert float(of_sequence["joint_reverse_mutual_information_pe"]) == pytest.approx(
        float(joint_rmi), rel=0.05
    )
    torch.testing.assert_close(
        of_tokens["epkl"], of_tokens["mutual_information"] + of_tokens["reverse_mutual_information"]
    )


@pytest.mark.parametrize("predictive", ["base", "mean"])
def test_a_student_twice_is_that_student(predictive: str) -> None:
    head, logits, tokens = StudentHead("dirichlet", 1.0, predictive), logits_of(4), torch.arange(4)
    once = measured(estimator_for([head], EVERY), [logits], tokens)
    twice = measured(estimator_for([head, head], EVERY), [logits, logits.clone()], tokens)
    for one, two in zip(once[:2], twice[:2], strict=True):
        assert two.keys() == {name for name in one if not name.startswith("official_")}
        for name, values in two.items():
            torch.testing.assert_close(values, one[name], rtol=1e-9, atol=1e-12, msg=name)
    torch.testing.assert_close(twice[2], once[2])


def test_the_base_is_the_mean_of_the_bases() -> None:
    students = [logits_of(1), logits_of(2)]
    estimator = estimator_for([StudentHead("dirichlet", 1.0)] * 2)
    reading = estimator.read(students)
    base = torch.stack([z.softmax(-1) for z in students]).mean(0)
    torch.testing.assert_close(reading.log_probs.exp(), base)
    torch.testing.assert_close(
        reading.measures["total_uncertainty_base"], -(base * base.log()).sum(-1)
    )
    assert (estimator.info.kind, estimator.info.members) == ("dirichlet", 2)


def test_what_several_students_do_not_have() -> None:
    heads = [StudentHead("dirichlet", 1.0)] * 2
    expected = {n for n in available_measures("dirichlet", samples=False) if "official" not in n}
    assert set(estimator_for(heads, EVERY).measures) == expected
    assert expected <= MEASURES.keys()
    for options, message in (
        (UncertaintyOptions(("official_epkl",)), "no measures of several students"),
        (UncertaintyOptions(combination="ep"), "product of expectations"),
        (UncertaintyOptions(dirichlet_samples=3), "without drawn members"),
    ):
        with pytest.raises(InputError, match=message):
            estimator_for(heads, options)
    bad = [logits_of(1), logits_of(2)]
    bad[1][0, 0] = float("nan")
    with pytest.raises(InputError, match="member 2"):
        estimator_for(heads).read(bad)
