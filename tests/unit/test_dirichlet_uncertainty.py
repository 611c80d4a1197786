"""Token uncertainties of a Dirichlet student: against 100 digits and against sampling."""

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.uncertainty import dirichlet_uncertainty
from seqdistill.uncertainty.dirichlet import precision_of
from tests.reference import dirichlets, ensembles, predictives
from tests.reference.arithmetic import concentrations, log, number, total

LOGITS = {
    "flat": [0.0] * 7,
    "usual": [6.0, -1.0, 0.5, -2.0, -5.0, 1.0, -3.0],
    "sure": [60.0, -80.0, 0.0, 10.0, -10.0, 30.0, -30.0],
    "high": [80.0, 79.0, 80.0],
    "low": [-30.0, -28.0, -30.0, -25.0],
    "pair": [2.0, 1.0],
}
KNOWLEDGE = ("mutual_information", "epkl", "reverse_mutual_information", "inverse_precision")
TOTAL = ("total_uncertainty", "data_uncertainty", "total_uncertainty_base")


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything twice: by the compiled kernels where they are, and by plain PyTorch."""
    if request.param == "plain":
        monkeypatch.setattr(
            "seqdistill.uncertainty.dirichlet.dirichlet_rows", lambda logits, offset: None
        )


def reference(logits: list[float], offset: float) -> dict[str, object]:
    alpha = concentrations(logits, offset)
    return {
        "total_uncertainty": dirichlets.total_uncertainty(alpha),
        "data_uncertainty": dirichlets.data_uncertainty(alpha),
        "mutual_information": dirichlets.mutual_information(alpha),
        "epkl": dirichlets.epkl(alpha),
        "reverse_mutual_information": dirichlets.reverse_mutual_information(alpha),
        "inverse_precision": 1 / total(alpha),
        "total_uncertainty_base": -total(p * log(p) for p in predictives.base(logits)),
    }


@pytest.mark.parametrize(
    ("dtype", "budget"), [(torch.float32, 2e-5), (torch.float64, 1e-9)], ids=str
)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("case", LOGITS)
def test_measures_agree_with_reference(
    case: str, offset: float, dtype: torch.dtype, budget: float
) -> None:
    computed = dirichlet_uncertainty(torch.tensor([LOGITS[case]], dtype=dtype), offset)
    expected = reference(LOGITS[case], offset)
    assert expected.keys() == set(KNOWLEDGE + TOTAL)
    for name, right in expected.items():
        value = getattr(computed, name)
        assert value.dtype == dtype
        assert value.shape == (1,)
        # Knowledge measures keep their digits down to e^−80; entropies are sums of p ln p near 1.
        floor = 0.0 if name in KNOWLEDGE else 0.1
        assert abs(number(value[0]) - right) < budget * max(abs(right), floor), name
    assert computed.precision.item() == pytest.approx(
        float(1 / expected["inverse_precision"]), rel=budget
    )


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_measures_agree_with_sampling(offset: float) -> None:
    torch.manual_seed(0)
    z = torch.tensor([1.5, 0.0, -0.5, 2.0, -1.0], dtype=torch.float64)
    draws = torch.distributions.Dirichlet(z.exp() + offset).sample((200_000,))
    log_draws, mean = draws.log(), draws.mean(0)
    entropies = -torch.xlogy(draws, draws).sum(-1)
    sampled = {
        "total_uncertainty": ensembles.entropy(mean.tolist()),
        "data_uncertainty": entropies.mean().item(),
        "reverse_mutual_information": (mean * (mean.log() - log_draws)).sum(-1).mean().item(),
    }
    sampled["mutual_information"] = sampled["total_uncertainty"] - sampled["data_uncertainty"]
    # Pairs of independent draws: the first half against the second.
    first, second = log_draws.chunk(2)
    sampled["epkl"] = (first.exp() * (first - second)).sum(-1).mean().item()
    computed = dirichlet_uncertainty(z, offset)
    for name, value in sampled.items():
        assert getattr(computed, name).item() == pytest.approx(value, rel=0.02), name


@pytest.mark.parametrize("V", [7, 4001, 40_000])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_large_vocabulary_agrees_with_naive_float64(V: int, offset: float) -> None:
    z = torch.randn(2, 3, V, generator=torch.Generator().manual_seed(0)) * 3
    alpha = z.double().exp() + offset
    precision = alpha.sum(-1, keepdim=True)
    mean = alpha / precision
    data = -(mean * (torch.digamma(alpha + 1) - torch.digamma(precision + 1))).sum(-1)
    total_uncertainty = -torch.xlogy(mean, mean).sum(-1)
    expected = {
        "total_uncertainty": total_uncertainty,
        "data_uncertainty": data,
        "mutual_information": total_uncertainty - data,
        "epkl": (V - 1) / precision.squeeze(-1),
        "reverse_mutual_information": (
            mean * (mean.log() - torch.digamma(alpha) + torch.digamma(precision))
        ).sum(-1),
    }
    computed = dirichlet_uncertainty(z, offset)
    for name, right in expected.items():
        value = getattr(computed, name)
        assert value.shape == (2, 3)
        torch.testing.assert_close(value.double(), right, rtol=2e-5, atol=0)


def test_a_sure_student_is_not_certain_by_rounding() -> None:
    # TU − DU in float32 would be 0 here.
    u = dirichlet_uncertainty(torch.tensor([30.0, 0.0, 0.0]))
    expected = reference([30.0, 0.0, 0.0], 1.0)
    for name in KNOWLEDGE:
        assert getattr(u, name).item() == pytest.approx(float(expected[name]), rel=1e-5)
        assert 0 < getattr(u, name).item() < 1e-11


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_logits_are_read_in_float32(dtype: torch.dtype) -> None:
    z = (torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    computed, expected = dirichlet_uncertainty(z), dirichlet_uncertainty(z.float())
    for name in KNOWLEDGE + TOTAL:
        assert getattr(computed, name).dtype == torch.float32
        assert torch.equal(getattr(computed, name), getattr(expected, name))
    # Two sums of e^z, each in its own order.
    assert torch.allclose(precision_of(z), expected.precision, rtol=1e-6)


def test_precision_of_is_the_sum_of_the_concentrations() -> None:
    z = torch.tensor([[0.0, 1.0, -2.0], [20.0, 0.0, 0.0]], dtype=torch.float64)
    for offset in (0.0, 1.0):
        torch.testing.assert_close(precision_of(z, offset), (z.exp() + offset).sum(-1))


@pytest.mark.parametrize("offset", [0.5, -1, 2])
def test_other_offsets_are_refused(offset: float) -> None:
    with pytest.raises(InputError, match=rf"offset of 1 \(default\) or 0, got {offset}"):
        dirichlet_uncertainty(torch.zeros(3), offset)
