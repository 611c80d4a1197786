"""Hydra: heads that are members, their loss against loops of 100 digits, and bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqdistill.errors import InputError
from seqdistill.kernels import (
    DistillationLoss,
    MemberLogits,
    MemberProjections,
    fused_hydra_loss,
    member_statistics,
)
from seqdistill.losses import hydra_loss, label_smoothed_cross_entropy
from seqdistill.student import HydraOutputs, StudentHead
from seqdistill.teachers import ensemble_statistics
from seqdistill.uncertainty.estimators import UncertaintyOptions, estimator_for
from seqdistill.uncertainty.heads import Projection, head_rows
from tests.reference import losses
from tests.reference.arithmetic import number

M, N, D, V = 3, 7, 4, 9


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def teachers(dtype: torch.dtype = torch.float64, temperature: float = 1.0) -> MemberProjections:
    """Members of different widths, one with a bias."""
    features = [normal(N, 3 + m, seed=m, dtype=dtype) for m in range(M)]
    weights = [normal(V, 3 + m, seed=10 + m, dtype=dtype) for m in range(M)]
    return MemberProjections(features, weights, [None, normal(V, dtype=dtype), None], temperature)


def log_probs_of(members: MemberProjections) -> torch.Tensor:
    biases = members.biases or [None] * M
    logits = [
        torch.nn.functional.linear(x, w, b)
        for x, w, b in zip(members.features, members.weights, biases, strict=True)
    ]
    return torch.log_softmax(torch.stack(logits) / members.temperature, dim=-1)


def test_the_loss_agrees_with_the_reference() -> None:
    heads, members = normal(M, N, V) * 2, log_probs_of(teachers())
    expected = [
        losses.mean_kl(heads[m, n], members[m, n].exp())[0] for m in range(M) for n in range(N)
    ]
    loss_sum, count = hydra_loss(heads, members)
    assert abs(number(loss_sum) - sum(expected) / M) < 1e-12
    assert int(count) == N
    mask = torch.tensor([True, False] * 3 + [True])
    heads[:, 1] = math.inf  # padding: whatever it holds
    loss_sum, count = hydra_loss(heads, members, mask)
    kept = [value for at, value in enumerate(expected) if mask[at % N]]
    assert abs(number(loss_sum) - sum(kept) / M) < 1e-12
    assert int(count) == 4


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk_tokens", [1, 2, 5, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_fused_form_is_the_plain_one(
    dtype: torch.dtype, chunk_tokens: int, temperature: float
) -> None:
    """Chunks that reach over several heads included; with cross-entropy, in value and gradient."""
    heads = normal(M, N, D, seed=3, dtype=dtype).requires_grad_()
    weight = normal(V, D, seed=4, dtype=dtype).requires_grad_()
    bias = normal(V, seed=5, dtype=dtype).requires_grad_()
    references = torch.arange(N) % V
    members = teachers(dtype, temperature)
    result = fused_hydra_loss(
        heads,
        weight,
        members,
        bias=bias,
        loss=DistillationLoss("mean_kl", mix_weight=0.3, label_smoothing=0.1),
        references=references,
        chunk_tokens=chunk_tokens,
    )
    logits = heads @ weight.T + bias
    plain, _ = hydra_loss(logits, log_probs_of(members))
    hard, _ = label_smoothed_cross_entropy(logits, references.expand(M, N), label_smoothing=0.1)
    expected = 0.7 * plain + 0.3 * hard / M
    budget = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    torch.testing.assert_close(result.loss_sum, expected, **budget)
    leaves = (heads, weight, bias)
    got = torch.autograd.grad(result.loss_sum * 0.5, leaves)
    for one, other in zip(got, torch.autograd.grad(expected * 0.5, leaves), strict=True):
        torch.testing.assert_close(one, other, **budget)
    mixture = torch.softmax(logits, -1).mean(0).gather(-1, references[:, None]).log()[:, 0]
    torch.testing.assert_close(result.log_probs, mixture.detach(), **budget)
    right = logits.argmax(-1).eq(references).to(result.correct.dtype).mean(0)
    torch.testing.assert_close(result.correct, right)


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 20.0))
def test_heads_that_are_their_members_lose_nothing(seed: int, scale: float) -> None:
    logits = normal(M, N, V, seed=seed) * scale
    members = MemberLogits(logits)
    eye = torch.eye(V, dtype=torch.float64)
    assert abs(float(fused_hydra_loss(logits, eye, members).loss_sum)) < 1e-9
    # Exchanged, they lose what the members are apart; never less than nothing.
    assert float(fused_hydra_loss(logits.roll(1, 0), eye, members).loss_sum) > 0


@pytest.mark.parametrize("combination", ["pe", "ep"])
def test_to_every_measure_the_heads_are_an_ensemble(combination: str) -> None:
    heads = normal(M, N, V, seed=6) * 3
    options = UncertaintyOptions(("all",), combination)
    head = StudentHead("hydra", settings={"members": M, "rank": 2})
    student = estimator_for([head], options)
    ensemble = estimator_for([None] * M, options)
    assert (student.info.kind, student.info.members) == ("hydra", M)
    assert student.measures == ensemble.measures
    rows = head_rows(head, normal(N, V), heads, Projection(torch.eye(V, dtype=torch.float64)))
    tokens, at = torch.arange(N) % V, torch.arange(N)
    outputs = list(torch.log_softmax(heads, -1))
    before = [torch.zeros(N, dtype=torch.float64) - m for m in range(M)]
    readings = [
        student.read(rows, prefixes=before),
        ensemble.read(iter(outputs), prefixes=before),
    ]
    torch.testing.assert_close(readings[0].log_probs, readings[1].log_probs)
    torch.testing.assert_close(readings[0].measures, readings[1].measures)
    terms = [
        torch.cat([one.token_terms(out, tokens, at) for out in given])
        for one, given in ((student, rows), (ensemble, outputs))
    ]
    torch.testing.assert_close(terms[0], terms[1])
    torch.testing.assert_close(
        student.sequence_measures(readings[0].measures, terms[0]),
        ensemble.sequence_measures(readings[1].measures, terms[1]),
    )


def test_statistics_of_members_by_their_features() -> None:
    members = teachers()
    expected = ensemble_statistics(log_probs_of(members))
    for target in (members, MemberLogits(log_probs_of(members))):
        found = member_statistics(target)
        torch.testing.assert_close(found.mean_probs, expected.mean_probs)
        torch.testing.assert_close(found.epkl, expected.epkl)


def test_heads_begin_as_the_body_and_part_by_their_members() -> None:
    torch.manual_seed(0)
    outputs = HydraOutputs(D, M, rank=2).double()
    features, weight = normal(N, D), normal(V, D, seed=1)
    heads = outputs(features)
    assert torch.equal(heads, features.expand(M, N, D))
    assert sum(p.numel() for p in outputs.parameters()) == M * (2 * D * 2 + 2)
    fused_hydra_loss(heads, weight, teachers()).loss_sum.backward()
    moved = outputs.up.grad
    assert bool((moved[0] - moved[1]).abs().max() > 1e-3)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    outputs = HydraOutputs(D, M, rank=2).double()
    torch.nn.init.normal_(outputs.up)
    names = [name for name, _ in outputs.named_parameters()]
    members, weight = teachers(), normal(V, D, seed=1)

    def loss(features: torch.Tensor, weight: torch.Tensor, *parameters: torch.Tensor):
        given = dict(zip(names, parameters, strict=True))
        heads = torch.func.functional_call(outputs, given, (features,))
        return fused_hydra_loss(heads, weight, members).loss_sum

    leaves = [normal(N, D), weight, *outputs.parameters()]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(loss, leaves, atol=1e-6)


def test_bad_input_says_what_to_do() -> None:
    members = teachers()
    with pytest.raises(InputError, match="a head for each of 3 members"):
        fused_hydra_loss(normal(2, N, D), normal(V, D), members)
    with pytest.raises(InputError, match="2 heads and 3 members"):
        hydra_loss(normal(2, N, V), normal(3, N, V))
    with pytest.raises(InputError, match="learn by the KL"):
        fused_hydra_loss(normal(M, N, D), normal(V, D), members, loss=DistillationLoss("end2"))
    members.features[1][2, 0] = math.nan
    with pytest.raises(InputError, match=r"NaN log-probabilities from member 2 \(1 tokens\)"):
        fused_hydra_loss(normal(M, N, D), normal(V, D), members)
    for settings, message in (
        ({}, "expected settings members, rank, got none"),
        ({"members": 1, "rank": 4}, "at least 2 members, got 1"),
        ({"members": 2, "rank": 0}, "rank of the heads of 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            StudentHead("hydra", settings=settings)
    with pytest.raises(InputError, match=r"an ordinary model, hydra cannot decode together"):
        estimator_for([StudentHead("hydra", settings={"members": 2, "rank": 4}), None])


def test_weights_of_another_student_are_refused() -> None:
    outputs = HydraOutputs(D, M, rank=2)
    with pytest.raises(InputError, match=r"hydra with 3 heads of rank 2, but .* no down"):
        outputs.load_state_dict({})
    with pytest.raises(InputError, match=r"whose down has shape \(3, 2, 4\); .*\(3, 5, 4\)"):
        outputs.load_state_dict(HydraOutputs(D, M, rank=5).state_dict())
