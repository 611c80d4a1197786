"""The walk over chunks against the losses of whole logits; gradients; bad members."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels import (
    LogitSpaceLoss,
    MemberLogits,
    MemberProjections,
    fused_logit_space_loss,
)
from seqdistill.losses import label_smoothed_cross_entropy
from seqdistill.losses.concrete import concrete_loss
from seqdistill.losses.logit_space import logit_space_loss

N, D, V, M = 5, 4, 7, 3
LOSSES = [
    LogitSpaceLoss("laplace", "log_softmax", 0.7, 1.3),
    LogitSpaceLoss("laplace", "centred", 1.0, 0.5, mix_weight=0.3, label_smoothing=0.1),
    LogitSpaceLoss("gaussian", "centred"),
    LogitSpaceLoss("concrete", mean_weight=0.7, likelihood_weight=1.3, mix_weight=0.4),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def parts(loss: LogitSpaceLoss) -> dict[str, Tensor]:
    width = 1 if loss.distribution == "concrete" else V
    given = {
        "features": random(N, D),
        "weight": random(V, D, seed=1),
        "bias": random(V, seed=2),
        "log_scales": 0.5 * random(N, width, seed=3),
    }
    return {name: value.requires_grad_() for name, value in given.items()}


def projections(temperature: float = 1.0) -> MemberProjections:
    features = [random(N, D + m, seed=10 + m) for m in range(M)]
    weights = [random(V, D + m, seed=20 + m) for m in range(M)]
    biases = [None, random(V, seed=30), None]
    return MemberProjections(features, weights, biases, temperature, ["a.pt", "b.pt", "c.pt"])


def logits_of(members: MemberProjections) -> Tensor:
    assert members.biases is not None
    rows = zip(members.features, members.weights, members.biases, strict=True)
    return torch.stack([x @ w.t() + (0 if b is None else b) for x, w, b in rows])


def plain(loss: LogitSpaceLoss, given: dict[str, Tensor], members: Any, references: Tensor) -> Any:
    z = given["features"] @ given["weight"].t() + given["bias"]
    weights = {"mean_weight": loss.mean_weight, "likelihood_weight": loss.likelihood_weight}
    if loss.distribution == "concrete":
        own, _ = concrete_loss(z, -given["log_scales"], members, **weights)
    else:
        own, _ = logit_space_loss(
            z, given["log_scales"], members, family=loss.distribution,
            comparable=loss.comparable, **weights,
        )  # fmt: skip
    entropy, _ = label_smoothed_cross_entropy(z, references, label_smoothing=loss.label_smoothing)
    return (1 - loss.mix_weight) * own + loss.mix_weight * entropy


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.distribution}-{loss.comparable}")
@pytest.mark.parametrize("chunk_tokens", [1, 2, 100])
@pytest.mark.parametrize("by_features", [True, False])
def test_chunks_make_the_loss_of_whole_logits(
    loss: LogitSpaceLoss, chunk_tokens: int, by_features: bool
) -> None:
    given, members = parts(loss), projections(temperature=1.7)
    whole = logits_of(members)
    references = torch.tensor([0, 3, 6, 2, 2])
    wanted = plain(loss, given, whole / 1.7, references)
    expected = torch.autograd.grad(wanted * 0.25, list(given.values()))
    target = members if by_features else MemberLogits(whole, 1.7)
    result = fused_logit_space_loss(
        given["features"], given["weight"], given["log_scales"], target, loss=loss,
        bias=given["bias"], references=references, chunk_tokens=chunk_tokens,
    )  # fmt: skip
    found = torch.autograd.grad(result.loss_sum * 0.25, list(given.values()))
    assert result.loss_sum.item() == pytest.approx(wanted.item(), rel=1e-12)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    z = given["features"] @ given["weight"].t() + given["bias"]
    of_references = torch.log_softmax(z, -1)[torch.arange(N), references]
    torch.testing.assert_close(result.log_probs.double(), of_references, rtol=1e-5, atol=1e-5)
    assert result.correct.tolist() == z.argmax(-1).eq(references).tolist()
    assert int(result.token_count) == N


def test_half_precision_projects_in_it_and_computes_in_float32() -> None:
    loss = LOSSES[0]
    given = {name: value.detach().bfloat16() for name, value in parts(loss).items()}
    members = MemberLogits(logits_of(projections()).bfloat16())
    leaf = given["features"].requires_grad_()
    result = fused_logit_space_loss(
        leaf, given["weight"], given["log_scales"].float(), members, loss=loss, bias=given["bias"]
    )
    (gradient,) = torch.autograd.grad(result.loss_sum, leaf)
    wanted = plain(loss, {n: v.double() for n, v in given.items()}, members.logits.double(),
                   torch.zeros(N, dtype=torch.long))  # fmt: skip
    assert result.loss_sum.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert result.loss_sum.item() == pytest.approx(wanted.item(), rel=0.02)


def test_without_gradients_there_is_only_a_value() -> None:
    given, members = parts(LOSSES[0]), projections()
    with torch.no_grad():
        result = fused_logit_space_loss(
            given["features"], given["weight"], given["log_scales"], members, loss=LOSSES[0]
        )
    assert not result.loss_sum.requires_grad
    assert result.log_probs.eq(0).all()


def test_a_bad_member_is_named_by_its_path() -> None:
    given, members = parts(LOSSES[0]), projections()
    members.features[1][3, 0] = math.nan
    with pytest.raises(InputError, match=r"b\.pt"):
        fused_logit_space_loss(
            given["features"], given["weight"], given["log_scales"], members, loss=LOSSES[0]
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"log_scales": torch.zeros(N, 1)}, "expected scales of shape"),
        ({"members": MemberLogits(torch.zeros(M, N + 1, V))}, "read both on"),
        ({"loss": LogitSpaceLoss("laplace", mix_weight=0.5)}, "references are needed"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "features": torch.zeros(N, D), "weight": torch.zeros(V, D),
        "log_scales": torch.zeros(N, V), "members": MemberLogits(torch.zeros(M, N, V)),
        "loss": LogitSpaceLoss("laplace"), **change,
    }  # fmt: skip
    with pytest.raises(InputError, match=words):
        fused_logit_space_loss(**given)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"distribution": "cauchy"}, "laplace, gaussian, concrete"),
        ({"mean_weight": -1.0}, "mean_weight of 0 or more"),
        ({"likelihood_weight": 0.0}, "leaves the scales untrained"),
        ({"mix_weight": 1.5}, "mix weight"),
    ],
)
def test_bad_settings(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LogitSpaceLoss(**{"distribution": "laplace", **values})
