"""The student's head and its two predictive distributions."""

import math

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.student import PREDICTIVES, StudentHead, predictive_log_probs
from tests.reference import predictives
from tests.reference.arithmetic import log, number

LOGITS = {
    "usual": [3.0, -1.0, 0.5, -2.0, -5.0],
    "sure": [80.0, -80.0, 0.0],
    "unsure": [-80.0, -79.0, -80.0, -60.0],
    "pair": [0.0, 1.0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("case", LOGITS)
def test_predictives_agree_with_reference(case: str, offset: float, dtype: torch.dtype) -> None:
    z = torch.tensor([LOGITS[case]] * 2, dtype=dtype)
    expected = {
        "base": predictives.base(LOGITS[case]),
        "mean": predictives.mean(LOGITS[case], offset),
    }
    assert expected.keys() == set(PREDICTIVES)
    budget = 1e-5 if dtype == torch.float32 else 1e-13
    for predictive, probs in expected.items():
        computed = predictive_log_probs(z, offset, predictive)
        assert computed.dtype == dtype
        assert computed.shape == z.shape
        for value, p in zip(computed[1], probs, strict=True):
            assert abs(number(value) - log(p)) < budget * max(abs(log(p)), 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("predictive", PREDICTIVES)
def test_half_precision_logits_give_float32(predictive: str, dtype: torch.dtype) -> None:
    z = torch.randn(3, 4001, generator=torch.Generator().manual_seed(0)).to(dtype)
    computed = predictive_log_probs(z, 1.0, predictive)
    assert computed.dtype == torch.float32
    assert torch.equal(computed, predictive_log_probs(z.float(), 1.0, predictive))
    torch.testing.assert_close(computed.exp().sum(-1), torch.ones(3), rtol=0, atol=1e-5)


# The table of how far the mean is moved to the uniform distribution.
@pytest.mark.parametrize(
    ("per_piece", "mass"), [(0.5, 2 / 3), (2, 1 / 3), (10, 1 / 11), (100, 1 / 101)]
)
def test_the_mean_is_the_base_mixed_with_the_uniform(per_piece: float, mass: float) -> None:
    V = 40
    z = torch.randn(V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z += math.log(per_piece * V) - z.logsumexp(-1)
    base = predictive_log_probs(z, 1.0, "base").exp()
    mean = predictive_log_probs(z, 1.0, "mean").exp()
    torch.testing.assert_close(mean, (1 - mass) * base + mass / V)


def test_without_offset_both_predictives_are_the_same() -> None:
    z = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        predictive_log_probs(z, 0.0, "mean"), predictive_log_probs(z, None, "base")
    )


def test_head_reads_logits_as_it_says() -> None:
    z = torch.tensor([[1.0, -1.0, 0.0]])
    mean = StudentHead("dirichlet", 1.0, "mean")
    assert torch.equal(mean.log_probs(z), predictive_log_probs(z, 1.0, "mean"))
    for head in (StudentHead("dirichlet", 1.0), StudentHead()):
        torch.testing.assert_close(head.log_probs(z), torch.log_softmax(z, -1))
    assert not torch.allclose(mean.log_probs(z), torch.log_softmax(z, -1), atol=0.1)


@pytest.mark.parametrize(
    "head",
    [
        StudentHead("hydra", settings={"members": 3, "rank": 8}),
        StudentHead(),
        StudentHead("dirichlet", 0.0, "base"),
        StudentHead("dirichlet", 1.0, "mean", ("epkl", "total_uncertainty")),
    ],
)
def test_head_survives_a_checkpoint(head: StudentHead, tmp_path) -> None:
    torch.save({"student_head": head.to_dict()}, tmp_path / "checkpoint.pt")
    # weights_only: what is saved must be plain values.
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert StudentHead.from_dict(loaded["student_head"]) == head


def test_measures_that_came_back_as_a_list_are_a_tuple() -> None:
    values = StudentHead("dirichlet", 1.0, measures=("epkl",)).to_dict() | {"measures": ["epkl"]}
    assert StudentHead.from_dict(values).measures == ("epkl",)
    assert values["measures"] == ["epkl"], "the argument was mutated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "poisson"}, "expected a head 'dirichlet' or 'softmax' .*got 'poisson'"),
        ({"kind": "dirichlet"}, "offset of 1 or 0, got None"),
        ({"kind": "dirichlet", "offset": 0.5}, r"offset of 1 or 0, got 0\.5"),
        ({"kind": "dirichlet", "offset": 1, "predictive": "mode"}, "among base, mean, got 'mode'"),
        ({"kind": "softmax", "predictive": "mean"}, "needs a Dirichlet student"),
    ],
)
def test_impossible_heads_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StudentHead(**arguments)


def test_a_newer_checkpoint_is_named_as_such() -> None:
    with pytest.raises(InputError, match=r"unknown settings shade, tint; .* newer seqdistill"):
        StudentHead.from_dict({"kind": "softmax", "tint": 1, "shade": 2})


@pytest.mark.parametrize(
    ("offset", "predictive"), [(None, "mean"), (0.5, "mean"), (1.0, "softmax"), (1.0, "")]
)
def test_impossible_predictives_are_refused(offset: float | None, predictive: str) -> None:
    with pytest.raises(InputError, match="predictive 'base', or 'mean' with offset"):
        predictive_log_probs(torch.zeros(2, 3), offset, predictive)
