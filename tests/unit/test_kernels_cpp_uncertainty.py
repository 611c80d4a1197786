"""The compiled uncertainty of a Dirichlet student: against float64, plain PyTorch, 100 digits."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.cpp import cpp_status
from seqdistill.kernels.cpp.backend import load
from seqdistill.kernels.cpp.check import UNCERTAINTY, complaint_of_uncertainty, row
from seqdistill.kernels.cpp.library import MEASURES, DirichletRows, Library
from seqdistill.kernels.cpp.uncertainty import dirichlet_rows
from seqdistill.student.head import predictive_log_probs
from seqdistill.uncertainty import dirichlet_uncertainty
from seqdistill.uncertainty.dirichlet import UncertaintyMeasures, dirichlet_reading
from tests.reference import dirichlets
from tests.reference.arithmetic import exp, numbers

pytestmark = pytest.mark.skipif(not cpp_status()[0], reason=cpp_status()[1])

NAMES = tuple(f.name for f in fields(UncertaintyMeasures))


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def library(request: pytest.FixtureRequest) -> Library:
    loaded = load().library
    assert loaded is not None
    if request.param not in loaded.levels:
        pytest.skip(f"this processor has no {request.param}")
    return Library(loaded.build, request.param)


def students(V: int) -> dict[str, Tensor]:
    """Logits of students: trained-like, sure, flat, and with a runaway logit at either end."""
    generator = torch.Generator().manual_seed(V)
    normal = torch.randn(3, V, generator=generator)
    runaway = normal * 3 - 3
    runaway[:, V // 2] = torch.tensor([119.0, 60.0, -90.0])
    return {
        "trained": normal * 3 - 3,
        "sure": normal * 20,
        "flat": normal * 0.01 + 5,
        "all below": normal * 5 - 60,
        "runaway": runaway,
    }


@pytest.mark.parametrize("offset", [1.0, 0.0])
@pytest.mark.parametrize("V", [2, 7, 16, 33, 1024, 4008, 40_001])
def test_no_worse_than_plain_pytorch(
    library: Library, V: int, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, logits in students(V).items():
        exact = dirichlet_uncertainty(logits.double(), offset)
        found = dict(zip(MEASURES, library.uncertainty(logits, offset).measures, strict=True))
        with monkeypatch.context() as patch:
            patch.setattr("seqdistill.uncertainty.dirichlet.dirichlet_rows", no_kernel)
            plain = dirichlet_uncertainty(logits, offset)
        for measure, mine in found.items():
            right = getattr(exact, measure)
            error = (mine.double() - right).abs()
            its = (getattr(plain, measure).double() - right).abs()
            scale = exact.epkl.abs() + right.abs()
            # Nobody needs digits of 1e-30 nats.
            allowed = 2 * its.max() + 4e-7 * scale + 1e-30
            assert (error <= allowed).all(), (name, measure, error, allowed)


def no_kernel(*_: Any, **__: Any) -> None:
    """As if there were no compiled kernels."""


def test_the_numbers_of_the_self_check() -> None:
    z = row()[0][0]
    for offset, expected in UNCERTAINTY.items():
        alpha = [exp(x) + int(offset) for x in numbers(z)]
        found = {
            "total_uncertainty": dirichlets.total_uncertainty(alpha),
            "mutual_information": dirichlets.mutual_information(alpha),
            "epkl": dirichlets.epkl(alpha),
            "reverse_mutual_information": dirichlets.reverse_mutual_information(alpha),
            "total_uncertainty_base": dirichlets.total_uncertainty([exp(x) for x in numbers(z)]),
            "inverse_precision": 1 / sum(alpha),
        }
        assert [float(found[name]) for name in MEASURES] == pytest.approx(expected, rel=1e-7)


def test_the_self_check_sees_what_is_wrong(library: Library) -> None:
    assert complaint_of_uncertainty(library) is None

    class Wrong(Library):
        def __init__(self) -> None:
            pass

        def uncertainty(
            self, logits: Tensor, offset: float, predictive: str | None = None
        ) -> DirichletRows:
            rows = library.uncertainty(logits, offset)
            return replace(rows, measures=rows.measures * 1.001)

    found = complaint_of_uncertainty(Wrong())
    assert found is not None
    assert "the uncertainty kernel gives" in found


def test_shapes_strides_and_half_precision() -> None:
    logits = students(65)["trained"]
    whole = dirichlet_uncertainty(logits)
    apart = torch.full((3, 100), torch.nan)[:, :65].copy_(logits)
    folded = dirichlet_uncertainty(logits[None, :, None])
    for name in NAMES:
        assert torch.equal(getattr(dirichlet_uncertainty(apart), name), getattr(whole, name))
        assert torch.equal(getattr(folded, name)[0, :, 0], getattr(whole, name))
    for half in (logits.bfloat16(), logits.half()):
        for name in NAMES:
            found = getattr(dirichlet_uncertainty(half), name)
            assert torch.equal(found, getattr(dirichlet_uncertainty(half.float()), name))
    columns = dirichlet_uncertainty(logits.t().contiguous().t())
    assert torch.equal(columns.epkl, whole.epkl)
    assert dirichlet_uncertainty(logits[:0]).epkl.shape == (0,)


def test_what_plain_pytorch_does() -> None:
    logits = students(9)["trained"]
    assert dirichlet_rows(logits.double(), 1.0) is None
    wanting = logits.clone().requires_grad_()
    assert dirichlet_rows(wanting, 1.0) is None
    with torch.no_grad():
        assert dirichlet_rows(wanting, 1.0) is not None


def test_other_rows_are_refused(library: Library) -> None:
    for wrong in (torch.zeros(3), torch.zeros(3, 4).t(), torch.zeros(2, 3).bfloat16()):
        with pytest.raises(TypeError, match="float32 rows"):
            library.uncertainty(wrong, 1.0)


def test_identities(library: Library) -> None:
    for offset in (1.0, 0.0):
        rows = library.uncertainty(students(513)["flat"], offset).measures
        values = dict(zip(MEASURES, rows, strict=True))
        parts = values["mutual_information"] + values["reverse_mutual_information"]
        assert torch.allclose(values["epkl"], parts, rtol=1e-6)
        assert (values["total_uncertainty"] <= math.log(513) + 1e-5).all()


@pytest.mark.parametrize("predictive", ["base", "mean"])
@pytest.mark.parametrize("offset", [1.0, 0.0])
@pytest.mark.parametrize("V", [2, 33, 4008])
def test_a_reading_is_its_parts(
    V: int, offset: float, predictive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, logits in students(V).items():
        found = dirichlet_reading(logits, offset, predictive)
        exact = predictive_log_probs(logits.double(), offset, predictive)
        plain = predictive_log_probs(logits, offset, predictive)
        error = (found.log_probs - exact).abs().amax()
        assert error <= 2 * (plain - exact).abs().amax() + 1e-6, (name, error)
        for measure in NAMES:
            alone = getattr(dirichlet_uncertainty(logits, offset), measure)
            assert torch.equal(getattr(found.measures, measure), alone)
        with monkeypatch.context() as patch:
            patch.setattr("seqdistill.uncertainty.dirichlet.dirichlet_rows", no_kernel)
            slow = dirichlet_reading(logits, offset, predictive)
        assert torch.equal(slow.log_probs, plain)
        assert torch.allclose(found.log_total, slow.log_total, rtol=1e-6, atol=1e-6), name
        free = logits.clone()
        in_place = dirichlet_reading(free, offset, predictive, is_free=True)
        assert in_place.log_probs.data_ptr() == free.data_ptr()
        assert torch.equal(in_place.log_probs, found.log_probs)


def test_a_reading_refuses_what_it_does_not_know() -> None:
    for offset, predictive in ((0.5, "base"), (1.0, "median")):
        with pytest.raises(InputError, match="expected a predictive among base, mean"):
            dirichlet_reading(torch.zeros(1, 3), offset, predictive)
