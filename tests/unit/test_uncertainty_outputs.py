"""What is kept of members' outputs gives the same numbers as the outputs themselves."""

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import Estimator, UncertaintyOptions, estimator_for
from seqdistill.uncertainty.outputs import KeptRows, ProjectedRows, token_log_probs

R, D, V = 5, 6, 23
HEADS: dict[str, list[StudentHead | None]] = {
    "ensemble": [None] * 3,
    "softmax": [None],
    "base": [StudentHead("dirichlet", 1.0, "base")],
    "mean": [StudentHead("dirichlet", 1.0, "mean")],
    "students": [StudentHead("dirichlet", 1.0)] * 2,
}


def projected(seed: int, bias: bool = True, dtype: torch.dtype = torch.float32) -> ProjectedRows:
    generator = torch.Generator().manual_seed(seed)
    features, weight = (torch.randn(n, D, generator=generator) for n in (R, V))
    shift = torch.randn(V, generator=generator) if bias else None
    return ProjectedRows(
        features.to(dtype), weight.to(dtype), None if shift is None else shift.to(dtype)
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_single_logits_are_those_of_the_whole_rows(bias: bool, dtype: torch.dtype) -> None:
    given = projected(1, bias, dtype)
    tokens, rows = torch.tensor([0, 22, 5, 5]), torch.tensor([4, 0, 2, 3])
    whole = given.whole()
    assert whole.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close = (
        {"rtol": 1e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    )
    torch.testing.assert_close(given.at(tokens, rows), whole[rows, tokens], **close)
    torch.testing.assert_close(given.whole(rows), whole[rows], **close)
    kept = KeptRows(whole)
    assert torch.equal(kept.at(tokens, rows), whole[rows, tokens])
    assert torch.equal(kept.whole(rows), whole[rows])


def read_all(
    estimator: Estimator, outputs: list[Tensor] | list[KeptRows] | list[ProjectedRows], **how: float
) -> dict[str, Tensor]:
    tokens, rows = torch.tensor([1, 22, 7]), torch.tensor([0, 4, 4])
    prefixes = -torch.arange(len(outputs) * R).view(len(outputs), R).double()
    reading = estimator.read(outputs, prefixes=prefixes if estimator.needs_prefix else None, **how)
    terms = torch.cat([estimator.token_terms(o, tokens, rows) for o in outputs])
    return reading.measures | {"terms": terms, "log_probs": reading.log_probs}


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize(
    ("kind", "combination"),
    # A student has no members whose sequences could be combined.
    [(kind, "pe") for kind in HEADS] + [("ensemble", "ep"), ("softmax", "ep")],
)
def test_features_say_what_logits_say(kind: str, combination: str, temperature: float) -> None:
    heads = HEADS[kind]
    estimator = estimator_for(heads, UncertaintyOptions(("all",), combination))
    members = [projected(m) for m in range(len(heads))]
    tensors = [m.whole() for m in members]
    if not estimator.wants_logits:
        tensors = [torch.log_softmax(t, -1) for t in tensors]
    expected = read_all(estimator, tensors, temperature=temperature)
    for outputs in (members, [KeptRows(m.whole()) for m in members]):
        found = read_all(estimator, outputs, temperature=temperature)
        assert found.keys() == expected.keys()
        for name, right in expected.items():
            torch.testing.assert_close(found[name], right, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("combination", ["pe", "ep"])
def test_what_float32_sums_lose_is_made_again(combination: str) -> None:
    """A spread of 300 nats: sums of probabilities end at 1e-38, their logarithms go on."""
    weights = torch.tensor([0.0, -40.0]).double().unsqueeze(1).expand(2, R)
    members = [projected(m) for m in range(2)]
    for member, low in zip(members, (-250.0, -280.0), strict=True):
        assert member.bias is not None
        member.bias[3] = low
    estimator = estimator_for([None, None], UncertaintyOptions(("all",), combination))
    found = estimator.read(members, prefixes=weights).log_probs
    exact = torch.stack([torch.log_softmax(m.whole().double(), -1) for m in members])
    share = weights if combination == "ep" else torch.zeros_like(weights)
    share = torch.log_softmax(share, 0)
    expected = torch.logsumexp(exact + share.unsqueeze(-1), 0)
    assert float(expected.min()) < -150
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_rows_that_were_not_read_are_log_probabilities() -> None:
    log_probs = torch.log_softmax(projected(0).whole(), -1)
    tokens, rows = torch.tensor([3]), torch.tensor([2])
    assert torch.equal(token_log_probs(log_probs, tokens, rows), log_probs[rows, tokens])


def test_a_member_that_gives_nan_is_named() -> None:
    members = [projected(m) for m in range(3)]
    members[1].features[2, 0] = torch.nan
    with pytest.raises(InputError, match=r"NaN log-probabilities from member 2 \(1 tokens\)"):
        estimator_for([None] * 3).read(members)
    with pytest.raises(InputError, match="from member 1"):
        estimator_for([None]).read(members[1:2])
