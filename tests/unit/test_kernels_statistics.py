"""Statistics of members at hand together: those of members one after another."""

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.statistics import joint_ensemble_statistics
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics


def members(M: int, n: int, V: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(M * V)
    shared = 4 * torch.randn(n, V, generator=generator)
    return [
        torch.log_softmax(shared + torch.randn(n, V, generator=generator), -1) for _ in range(M)
    ]


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(("M", "n", "V"), [(2, 1, 2), (5, 7, 33), (20, 3, 4008)])
def test_the_same_as_one_after_another(M: int, n: int, V: int, backend: str) -> None:
    given = members(M, n, V)
    kept = [member.clone() for member in given]
    found = joint_ensemble_statistics(given, backend=backend)
    exact = ensemble_statistics([member.double() for member in given])
    for field in fields(EnsembleStatistics):
        mine, right = getattr(found, field.name), getattr(exact, field.name)
        if isinstance(right, Tensor):
            torch.testing.assert_close(mine.double(), right, rtol=2e-6, atol=1e-6)
        else:
            assert mine == right
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_constants_of_a_row_do_not_matter() -> None:
    given = members(3, 4, 19)
    found = joint_ensemble_statistics([member + 5 for member in given])
    expected = joint_ensemble_statistics(given)
    torch.testing.assert_close(found.mean_probs, expected.mean_probs)
    torch.testing.assert_close(found.epkl, expected.epkl, rtol=1e-4, atol=1e-6)


def test_dtypes_and_strides() -> None:
    given = members(3, 4, 19)
    exact = joint_ensemble_statistics([member.double() for member in given])
    assert exact.mean_probs.dtype == torch.float64
    columns = joint_ensemble_statistics([member.t().contiguous().t() for member in given])
    torch.testing.assert_close(columns.mean_probs, exact.mean_probs.float())
    half = joint_ensemble_statistics([member.bfloat16() for member in given])
    assert half.mean_probs.dtype == torch.float32
    torch.testing.assert_close(half.mean_probs, exact.mean_probs.float(), rtol=0.1, atol=1e-2)


def test_pieces_that_members_exclude() -> None:
    given = members(2, 1, 5)
    given[0][0, 3] = given[1][0, 3] = -math.inf
    found = joint_ensemble_statistics(given)
    assert found.mean_probs[0, 3] == 0
    assert found.mean_log_probs[0, 3] == -math.inf
    assert found.epkl.isfinite().all()


def test_bad_members() -> None:
    given = members(3, 2, 5)
    with pytest.raises(InputError, match="at least 2 members, got 1"):
        joint_ensemble_statistics(given[:1])
    with pytest.raises(InputError, match=r"member 2 has shape \(1, 5\)"):
        joint_ensemble_statistics([given[0], given[1][:1]])
    given[1][1, 4] = math.nan
    with pytest.raises(InputError, match=r"NaN log-probabilities from second \(1 tokens\)"):
        joint_ensemble_statistics(given, names=["first", "second", "third"])
