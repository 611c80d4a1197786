"""The fused loss against the plain one, its chunks, its gradients, and what it refuses."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from seqdistill.errors import InputError
from seqdistill.kernels import (
    DistillationLoss,
    FusedLoss,
    MemberLogits,
    MemberProjections,
    fused_distillation_loss,
    plain_distillation_loss,
)
from seqdistill.targets import proxy_dirichlet_target
from seqdistill.targets.sparse import SparseTarget
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics

N, D, V, M = 23, 12, 97, 3

LOSSES = [
    DistillationLoss("proxy_dirichlet"),
    DistillationLoss("proxy_dirichlet", "epkl", "total", offset=0),
    DistillationLoss("proxy_dirichlet", "exact", mix_weight=0.3, label_smoothing=0.1),
    DistillationLoss("proxy_dirichlet_forward", normalisation="total"),
    DistillationLoss("end2", mix_weight=0.5),
    DistillationLoss("end2", offset=0),
    DistillationLoss("mean_kl", mix_weight=0.2, label_smoothing=0.1),
]
NAMES = [f"{loss.kind}-{loss.concentration}-{loss.offset:g}-{loss.mix_weight}" for loss in LOSSES]


@dataclasses.dataclass
class Case:
    """A student and its teachers, all by features."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    members: MemberProjections
    references: Tensor
    mask: Tensor

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.features, self.weight, self.bias

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, self.leaves(), allow_unused=True))

    def logits(self) -> Tensor:
        return nn.functional.linear(self.features, self.weight, self.bias)

    def statistics(self, temperature: float = 1.0) -> EnsembleStatistics:
        return ensemble_statistics(
            [torch.log_softmax(logits, -1) for logits in self.member_logits()],
            temperature=temperature,
        )

    def member_logits(self) -> list[Tensor]:
        pairs = zip(self.members.features, self.members.weights, strict=True)
        return [features @ weight.T for features, weight in pairs]

    def fused(self, loss: DistillationLoss | None = None, **options: object) -> FusedLoss:
        arguments: dict[str, object] = {
            "bias": self.bias, "loss": loss, "references": self.references, "backend": "eager",
        }  # fmt: skip
        target = options.pop("target", self.members)
        mask = options.pop("token_mask", self.mask)
        return fused_distillation_loss(
            self.features, self.weight, target, mask, **(arguments | options)
        )


@pytest.fixture
def case() -> Case:
    return make_case(torch.float32)


def make_case(dtype: torch.dtype, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Case(
        normal(N, D).requires_grad_(),
        normal(V, D).requires_grad_(),
        normal(V).requires_grad_(),
        MemberProjections([normal(N, D) for _ in range(M)], [normal(V, D) for _ in range(M)]),
        torch.randint(V, (N,), generator=generator),
        torch.rand(N, generator=generator) > 0.3,
    )


def assert_same(first: list[Tensor], second: list[Tensor], bound: float) -> None:
    for a, b in zip(first, second, strict=True):
        assert (a - b).norm() <= bound * b.norm()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("chunk_tokens", [1, 7, None])
def test_value_and_gradients_are_those_of_the_plain_path(
    case: Case, loss: DistillationLoss, chunk_tokens: int | None
) -> None:
    result = case.fused(loss, chunk_tokens=chunk_tokens)
    expected, count = plain_distillation_loss(
        case.logits(), case.statistics(), case.mask, loss=loss, references=case.references
    )
    assert int(result.token_count) == int(count) == int(case.mask.sum())
    assert result.loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)
    # The incoming gradient is not 1.
    assert_same(case.gradients(result.loss_sum * 0.37), case.gradients(expected * 0.37), bound=3e-6)


def test_float64_agrees_to_rounding() -> None:
    case = make_case(torch.float64)
    for loss in LOSSES:
        result = case.fused(loss, chunk_tokens=5)
        expected, _ = plain_distillation_loss(
            case.logits(), case.statistics(), case.mask, loss=loss, references=case.references
        )
        assert result.loss_sum.dtype == torch.float64
        assert result.loss_sum.item() == pytest.approx(expected.item(), rel=1e-12)
        assert_same(case.gradients(result.loss_sum), case.gradients(expected), bound=1e-11)


def test_gradient_is_that_of_the_value() -> None:
    case = make_case(torch.float64)
    for loss in LOSSES:

        def value(
            features: Tensor, weight: Tensor, bias: Tensor, loss: DistillationLoss = loss
        ) -> Tensor:
            return fused_distillation_loss(
                features, weight, case.members, case.mask, bias=bias, loss=loss,
                references=case.references, chunk_tokens=4,
            ).loss_sum  # fmt: skip

        assert torch.autograd.gradcheck(value, case.leaves(), fast_mode=True, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "target",
    [
        lambda case: MemberLogits(case.member_logits()),
        lambda case: torch.stack(case.member_logits()),
        lambda case: case.statistics(),
        lambda case: proxy_dirichlet_target(case.statistics()),
        lambda case: whole_vocabulary(case.statistics()),
    ],
    ids=["logits", "tensor", "statistics", "proxy", "sparse"],
)
def test_every_kind_of_target_is_the_same_target(
    case: Case, target: Callable[[Case], object]
) -> None:
    expected = case.fused()
    result = case.fused(target=target(case), chunk_tokens=6)
    assert result.loss_sum.item() == pytest.approx(expected.loss_sum.item(), rel=1e-5)
    assert_same(case.gradients(result.loss_sum), case.gradients(expected.loss_sum), bound=1e-5)


def whole_vocabulary(statistics: EnsembleStatistics) -> SparseTarget:
    """A sparse target that leaves nothing out, its pieces in order of probability."""
    probs, pieces = statistics.mean_probs.sort(-1, descending=True)
    return SparseTarget(
        pieces=pieces,
        probs=probs,
        tail_mass=torch.zeros(N),
        prior=torch.full((V,), 1 / V),
        total_uncertainty=statistics.total_uncertainty,
        mutual_information=statistics.mutual_information,
        epkl=statistics.epkl,
        reverse_mutual_information=statistics.reverse_mutual_information,
        exact_inverse_precision=None,
        log_probs=statistics.mean_log_probs.gather(-1, pieces),
        tail_log_shift=torch.zeros(N),
        log_prior=torch.full((V,), -1.0),
        members=M,
    )


def test_a_sparse_target_keeps_the_mass_and_repeats_do_not_count(case: Case) -> None:
    statistics = case.statistics()
    whole = whole_vocabulary(statistics)
    k = 5
    pieces, probs = whole.pieces[:, :k].clone(), whole.probs[:, :k].clone()
    pieces[0, 3:], probs[0, 3:] = pieces[0, 0], probs[0, 0]  # a token with three pieces only
    mass = probs.sum(-1)
    mass[0] = probs[0, :3].sum()
    prior = torch.softmax(torch.arange(V) * 0.01, -1)
    cut = dataclasses.replace(
        whole, pieces=pieces, probs=probs, tail_mass=1 - mass, prior=prior,
        log_probs=None, tail_log_shift=None, log_prior=None,
    )  # fmt: skip
    dense = cut.mean_probs()
    torch.testing.assert_close(dense.sum(-1), torch.ones(N))
    torch.testing.assert_close(dense.gather(-1, pieces), probs)
    outside = torch.ones(V, dtype=torch.bool)
    outside[pieces[1]] = False
    shape = dense[1][outside] / prior[outside]
    torch.testing.assert_close(shape, shape[:1].expand_as(shape))
    with pytest.raises(InputError, match="--for-end2"):
        case.fused(DistillationLoss("end2"), target=cut)
    with pytest.raises(InputError, match="--exact-precision"):
        case.fused(DistillationLoss(concentration="exact"), target=cut)


def test_rows_say_what_a_log_needs(case: Case) -> None:
    rows = case.fused(chunk_tokens=4).rows
    logits, statistics = case.logits()[case.mask], case.statistics()
    references = case.references[case.mask]
    torch.testing.assert_close(rows.log_sum, torch.logsumexp(logits, -1))
    torch.testing.assert_close(
        rows.reference_logit, logits.gather(-1, references.unsqueeze(-1)).squeeze(-1)
    )
    torch.testing.assert_close(rows.largest_logit, logits.amax(-1))
    for name in ("total_uncertainty", "mutual_information", "epkl", "reverse_mutual_information"):
        torch.testing.assert_close(
            getattr(rows, name), getattr(statistics, name)[case.mask], rtol=1e-4, atol=1e-6
        )


def test_padding_cannot_matter(case: Case) -> None:
    expected = case.fused()
    wild = dataclasses.replace(case, features=case.features.detach().clone())
    wild.features[~case.mask] = torch.nan
    wild.features.requires_grad_()
    result = wild.fused()
    assert result.loss_sum.item() == expected.loss_sum.item()
    for mine, other in zip(
        wild.gradients(result.loss_sum), case.gradients(expected.loss_sum), strict=True
    ):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_nothing_counted_is_a_loss_of_nothing(case: Case, backend: str) -> None:
    result = case.fused(token_mask=torch.zeros(N, dtype=torch.bool), backend=backend)
    assert result.loss_sum.item() == 0
    assert int(result.token_count) == 0
    for gradient in case.gradients(result.loss_sum):
        assert gradient is not None
        assert not gradient.any()
    empty = dataclasses.replace(
        case,
        features=case.features.detach()[:0].requires_grad_(),
        members=MemberProjections([f[:0] for f in case.members.features], case.members.weights),
        references=case.references[:0],
        mask=case.mask[:0],
    )
    assert empty.fused(backend=backend).loss_sum.item() == 0


def test_token_weights_scale_loss_and_gradient(case: Case) -> None:
    weights = torch.rand(N)
    weighted = case.fused(token_weights=weights, chunk_tokens=5)
    parts = [
        case.fused(token_mask=torch.arange(N) == n).loss_sum * weights[n]
        for n in range(N)
        if case.mask[n]
    ]
    total = torch.stack(parts).sum()
    assert weighted.loss_sum.item() == pytest.approx(total.item(), rel=1e-5)
    assert_same(case.gradients(weighted.loss_sum), case.gradients(total), bound=1e-5)


def test_temperature_is_the_members(case: Case) -> None:
    loss = DistillationLoss("end2")
    warm = dataclasses.replace(case.members, temperature=3.0)
    expected, _ = plain_distillation_loss(case.logits(), case.statistics(3.0), case.mask, loss=loss)
    assert case.fused(loss, target=warm).loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)


def test_tied_embeddings_and_accumulation(case: Case) -> None:
    """One weight for input and output, two batches before a step: gradients add up."""
    embedding = nn.Embedding(V, D)
    tokens = torch.randint(V, (N,), generator=torch.Generator().manual_seed(1))

    def run(fused: bool) -> Tensor:
        embedding.zero_grad()
        for part in (slice(0, 9), slice(9, N)):
            features = torch.tanh(embedding(tokens[part]))
            members = MemberProjections(
                [f[part] for f in case.members.features], case.members.weights
            )
            if fused:
                loss = fused_distillation_loss(
                    features, embedding.weight, members, backend="eager"
                ).loss_sum
            else:
                logits = features @ embedding.weight.T
                s = ensemble_statistics(
                    [torch.log_softmax(x[part], -1) for x in case.member_logits()]
                )
                loss, _ = plain_distillation_loss(logits, s)
            (loss / 7).backward()
        assert embedding.weight.grad is not None
        return embedding.weight.grad.clone()

    torch.testing.assert_close(run(True), run(False), rtol=1e-4, atol=1e-5)


def test_a_frozen_projection_gets_no_gradient(case: Case) -> None:
    frozen = dataclasses.replace(case, weight=case.weight.detach(), bias=case.bias.detach())
    loss = frozen.fused().loss_sum
    (gradient,) = torch.autograd.grad(loss, [frozen.features])
    torch.testing.assert_close(gradient, case.gradients(case.fused().loss_sum)[0])


def test_no_gradient_is_computed_where_none_is_wanted(case: Case) -> None:
    with torch.no_grad():
        result = case.fused()
    assert not result.loss_sum.requires_grad
    assert result.loss_sum.item() == pytest.approx(case.fused().loss_sum.item(), rel=1e-6)


def test_logits_may_be_given_in_place_of_features(case: Case) -> None:
    logits = case.logits().detach().requires_grad_()
    result = fused_distillation_loss(logits, None, case.statistics(), case.mask, backend="eager")
    expected, _ = plain_distillation_loss(logits, case.statistics(), case.mask)
    (mine,) = torch.autograd.grad(result.loss_sum, [logits])
    (other,) = torch.autograd.grad(expected, [logits])
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["autocast", "products", "model"])
def test_half_precision_is_no_worse_than_the_plain_path(
    case: Case, dtype: torch.dtype, how: str
) -> None:
    """Against float64 of the same inputs: the products round, the loss does not add to it."""
    name = str(dtype).removeprefix("torch.")
    statistics = case.statistics()
    if how == "model":
        leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in case.leaves()]
        case = dataclasses.replace(case, features=leaves[0], weight=leaves[1], bias=leaves[2])
    exact = make_case(torch.float64)
    reference_leaves = [leaf.detach().double().requires_grad_() for leaf in case.leaves()]
    exact = dataclasses.replace(
        exact, features=reference_leaves[0], weight=reference_leaves[1], bias=reference_leaves[2]
    )
    value, _ = plain_distillation_loss(exact.logits(), exact.statistics(), case.mask)
    truth = exact.gradients(value)
    with torch.autocast("cpu", dtype=dtype, enabled=how == "autocast"):
        options = {"products": name} if how == "products" else {}
        fused = case.fused(target=statistics, chunk_tokens=8, **options)
    with torch.autocast("cpu", dtype=dtype, enabled=how != "model"):
        plain, _ = plain_distillation_loss(case.logits(), statistics, case.mask)

    def error(gradients: list[Tensor]) -> float:
        pairs = zip(gradients, truth, strict=True)
        return max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)

    mine, other = error(case.gradients(fused.loss_sum)), error(case.gradients(plain))
    assert mine > 1e-5, "half precision was not used"
    assert mine <= 1.5 * other


def test_float16_keeps_the_tail(case: Case) -> None:
    """Derivatives far below float16's 6e-8 reach the features through a scaled product."""
    weight = torch.zeros(V, D, dtype=torch.float16)
    weight[1:, 0] = 1.0
    logits = torch.full((1, V), -20.0)
    logits[0, 0] = 0.0
    statistics = ensemble_statistics([torch.log_softmax(logits, -1)] * 2)
    features = torch.zeros(1, D, dtype=torch.float16, requires_grad=True)
    bias = torch.full((V,), -19.0, dtype=torch.float16)
    bias[0] = 0.0
    loss = fused_distillation_loss(
        features, weight, statistics, bias=bias, loss=DistillationLoss("mean_kl"), backend="eager"
    )
    # Unscaled in float16 it is 0 below 6e-8; here 96 · (e^−19 − e^−20) ≈ 3.4e-7 of 3.5e-9 each.
    (gradient,) = torch.autograd.grad(loss.loss_sum * 2**12, [features])
    expected = (V - 1) * (torch.tensor(-19.0).exp() - torch.tensor(-20.0).exp()) * 2**12
    assert gradient[0, 0].item() == pytest.approx(expected.item(), rel=0.02)


def test_a_second_derivative_is_refused(case: Case) -> None:
    loss = case.fused().loss_sum
    with pytest.raises(RuntimeError, match="first derivative only"):
        torch.autograd.grad(loss, [case.features], create_graph=True)


def test_backward_twice_on_a_kept_graph(case: Case) -> None:
    loss = case.fused().loss_sum
    first = torch.autograd.grad(loss, case.leaves(), retain_graph=True)
    first = [gradient.clone() for gradient in first]
    loss.backward(retain_graph=True)
    loss.backward()
    for leaf, gradient in zip(case.leaves(), first, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * gradient)


def test_members_that_agree_are_no_division_by_zero(case: Case) -> None:
    same = MemberProjections([case.members.features[0]] * 3, [case.members.weights[0]] * 3)
    result = case.fused(target=same)
    assert result.loss_sum.isfinite()
    assert all(gradient.isfinite().all() for gradient in case.gradients(result.loss_sum))
    assert (result.rows.reverse_mutual_information < 1e-5).all()


def test_a_member_with_nan_is_named(case: Case) -> None:
    broken = [f.clone() for f in case.members.features]
    broken[1][case.mask.nonzero()[3]] = torch.nan
    members = MemberProjections(broken, case.members.weights, names=["a.pt", "b.pt", "c.pt"])
    with pytest.raises(InputError, match=r"NaN log-probabilities from b\.pt \(1 tokens\)"):
        case.fused(target=members, chunk_tokens=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_mask": torch.ones(N - 1, dtype=torch.bool)}, r"token mask of shape \(23,\)"),
        ({"references": torch.zeros(N - 1, dtype=torch.long)}, "tensor of references of shape"),
        (
            {"references": torch.full((N,), V)},
            "piece is 97; the vocabulary has 0 … 96",
        ),
        ({"references": None, "loss": DistillationLoss(mix_weight=0.1)}, "needs references"),
        ({"chunk_tokens": 0}, "at least 1 token in a chunk"),
        ({"products": "int8"}, "expected products in float32"),
        ({"backend": "fast"}, "loss backend among auto, eager"),
        ({"bias": torch.zeros(V - 1)}, r"bias of shape \(97,\)"),
        ({"target": torch.zeros(2, N, V + 1)}, "the student has 97 vocabulary entries"),
        ({"target": torch.zeros(2, N + 5, V), "token_mask": None}, "of the same batch"),
        ({"target": "members"}, "expected members"),
    ],
)
def test_bad_input_says_what_was_expected(
    case: Case, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        case.fused(**change)


def test_features_of_the_wrong_width(case: Case) -> None:
    with pytest.raises(InputError, match="features are 12 wide, the projection has shape"):
        fused_distillation_loss(case.features, torch.zeros(V, D + 1), case.members)
    with pytest.raises(InputError, match="member 2: features are 11 wide, its projection takes 12"):
        MemberProjections([torch.zeros(N, D), torch.zeros(N, D - 1)], case.members.weights[:2])
    with pytest.raises(InputError, match="at least one member"):
        MemberLogits([])
    with pytest.raises(InputError, match="member 2 has shape"):
        MemberLogits([torch.zeros(N, V), torch.zeros(N, V - 1)])
    with pytest.raises(InputError, match="temperature above 0"):
        MemberLogits([torch.zeros(N, V)], temperature=0)


def test_one_piece_is_no_vocabulary() -> None:
    statistics = ensemble_statistics(torch.zeros(2, 3, 1))
    with pytest.raises(InputError, match="at least 2 pieces"):
        fused_distillation_loss(torch.zeros(3, 1), None, statistics)
    for loss in LOSSES:
        with pytest.raises(InputError, match="at least 2 pieces"):
            plain_distillation_loss(torch.zeros(3, 1), statistics, loss=loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "end3"}, "loss to be one of proxy_dirichlet"),
        ({"concentration": "mle"}, "concentration"),
        ({"normalisation": "both"}, "normalisation"),
        ({"offset": 0.5}, "offset"),
        ({"mix_weight": 1.5}, "mix weight"),
        ({"label_smoothing": 1.0}, "label smoothing"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillationLoss(**settings)
