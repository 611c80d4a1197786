"""Gradients by the rank of a class: bins by hand, autograd of the losses, intervals, files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from seqdistill.assessment.bootstrap import tallies
from seqdistill.assessment.gradient_files import profile_to_dict, read_gradients
from seqdistill.assessment.gradients import GradientProfile, GradientProfiler, RankBins
from seqdistill.errors import InputError
from seqdistill.kernels import DistillationLoss
from seqdistill.report.gradients import gradients_section
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics

V, LENGTHS = 23, [3, 1, 5]
KINDS = ("proxy_dirichlet", "proxy_dirichlet_forward", "end2", "mean_kl")
LOSSES = {kind: DistillationLoss(kind) for kind in KINDS}


def made(
    chosen: list[int] | None = None,
) -> tuple[dict[str, Tensor], EnsembleStatistics, Tensor]:
    """Three sentences, or those chosen, under three members and a student, in float64."""
    generator = torch.Generator().manual_seed(4)
    n = sum(LENGTHS)
    members = 3 * torch.randn(3, n, V, generator=generator, dtype=torch.float64)
    student = torch.randn(n, V, generator=generator, dtype=torch.float64)
    sentences = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
    rows = torch.cat([(sentences == s).nonzero().squeeze(1) for s in chosen or range(3)])
    statistics = ensemble_statistics(members[:, rows].log_softmax(-1))
    return {"student": student[rows]}, statistics, sentences[rows]


def plain_gradient(kind: str, z: Tensor, statistics: EnsembleStatistics) -> Tensor:
    """Autograd of each loss as it is written down, nothing regrouped."""
    z = z.clone().requires_grad_()
    p, log_p = statistics.mean_probs, statistics.mean_log_probs
    log_base = z.log_softmax(-1)
    if kind == "mean_kl":
        loss = -(p * log_base).sum()
    else:
        alpha = z.exp() + 1
        student = torch.distributions.Dirichlet(alpha)
        expected = alpha.digamma() - alpha.sum(-1, keepdim=True).digamma()
        w = (V - 1) / (2 * statistics.reverse_mutual_information)
        proxy = torch.distributions.Dirichlet(w.unsqueeze(-1) * p + 1)
        loss = {
            "proxy_dirichlet": lambda: (-(p * expected).sum(-1) - student.entropy() / w).sum(),
            "proxy_dirichlet_forward": lambda: (
                torch.distributions.kl_divergence(proxy, student) / w
            ).sum(),
            "end2": lambda: (
                alpha.lgamma().sum() - alpha.sum(-1).lgamma().sum() - ((alpha - 1) * log_p).sum()
            ),
        }[kind]()
    (gradient,) = torch.autograd.grad(loss, z)
    return gradient


def profile_of(batches: list[list[int]], **settings: int) -> GradientProfile:
    profiler = GradientProfiler(V, LOSSES, per_decade=2)
    for batch in batches:
        profiler.add(*made(batch))
    return profiler.profile(**settings)


def test_bins_by_hand() -> None:
    assert list(zip(*(RankBins.of(25, 3).first, RankBins.of(25, 3).last), strict=True)) == [
        (1, 2), (3, 4), (5, 9), (10, 21), (22, 25)
    ]  # fmt: skip
    # ⌈10^(j/4)⌉ = 1, 2, 4, 6, 10, 18, 32, 57, 100
    assert RankBins.of(100).first.tolist() == [1, 2, 4, 6, 10, 18, 32, 57, 100]
    assert RankBins.of(100).sizes.tolist() == [1, 2, 2, 4, 8, 14, 25, 43, 1]
    # So many bins that low ranks have one each: none is empty, none is there twice.
    fine = RankBins.of(12, 50)
    assert fine.first.tolist() == fine.last.tolist() == list(range(1, 13))
    for size in (2, 9, 10, 11, 4008, 40_000):
        bins = RankBins.of(size)
        assert bins.sizes.sum() == size
        assert bins.sizes.min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_means_and_shares_are_those_of_autograd(kind: str) -> None:
    logits, statistics, _ = made()
    gradient = plain_gradient(kind, logits["student"], statistics).abs()
    ranked = np.array(
        [
            [float(g[v]) for v in sorted(range(V), key=lambda v, p=p: -float(p[v]))]
            for g, p in zip(gradient, statistics.mean_probs, strict=True)
        ]
    )
    profile = profile_of([[0, 1, 2]], resamples=0)
    bins = list(zip(profile.bins.first, profile.bins.last, strict=True))
    assert bins == [(1, 3), (4, 9), (10, V)]
    expected = [ranked[:, first - 1 : last].mean() for first, last in bins]
    found = profile.means["student"][kind]
    assert [e.value for e in found] == pytest.approx(expected, rel=1e-9)
    assert found[0].low is None
    shares = profile.shares["student"][kind]
    assert shares is not None
    expected = [ranked[:, first - 1 :].sum() / ranked.sum() for first, _ in bins]
    assert [e.value for e in shares] == pytest.approx(expected, rel=1e-9)
    assert shares[0].value == 1.0


def test_batches_change_nothing() -> None:
    whole, parts = profile_of([[0, 1, 2]], resamples=40), profile_of([[2], [0, 1]], resamples=40)
    for kind in KINDS:
        for a, b in zip(whole.means["student"][kind], parts.means["student"][kind], strict=True):
            assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), rel=1e-12)
    assert (whole.sentences, whole.tokens) == (3, 9)


def test_intervals_are_those_of_sentences_drawn_again() -> None:
    logits, statistics, sentences = made()
    gradient = plain_gradient("end2", logits["student"], statistics).abs()
    order = statistics.mean_probs.argsort(-1, descending=True)
    top = gradient.gather(1, order)[:, :3].mean(-1).numpy()
    drawn = []
    for tally in tallies(3, 60, 7):
        for counts in tally:
            weights = counts[sentences.numpy()]
            drawn.append(float((weights * top).sum() / weights.sum()))
    found = profile_of([[0, 1, 2]], resamples=60, seed=7).means["student"]["end2"][0]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_a_student_that_is_right_has_no_gradient() -> None:
    _, _, sentences = made()
    equal = torch.full((2, len(sentences), V), 1 / V, dtype=torch.float64).log()
    profiler = GradientProfiler(V, {"EnD": DistillationLoss("mean_kl")})
    profiler.add({"uniform": torch.zeros_like(equal[0])}, ensemble_statistics(equal), sentences)
    found = profiler.profile(resamples=0).means["uniform"]["EnD"]
    assert [e.value for e in found] == pytest.approx([0.0] * len(found), abs=1e-15)


def test_a_file_says_what_was_found(tmp_path: Path) -> None:
    profile = profile_of([[0, 1, 2]], resamples=20)
    path = tmp_path / "gradients.json"
    path.write_text(json.dumps(profile_to_dict(profile)), encoding="utf-8")
    read = read_gradients(path)
    assert profile_to_dict(read) == profile_to_dict(profile)
    assert (
        "|loss:proxy_dirichlet|concentration:mkl|normalisation:proxy|offset:1|V:23|n:3|tokens:9|"
        in profile.signatures["proxy_dirichlet"]
    )
    section = gradients_section(read)
    assert section["columns"] == ["10"]
    assert [row["name"] for row in section["groups"][0]["rows"]][2] == "EnD²"
    shares = read.shares["student"]["end2"]
    assert shares is not None
    assert section["groups"][0]["rows"][2]["cells"][0]["value"] == f"{100 * shares[2].value:.1f}"
    (panel,) = section["panels"]
    assert "rank of the class" in panel["svg"]
    assert all(f"var(--series-{index})" in panel["svg"] for index in range(4))


def test_bad_input(tmp_path: Path) -> None:
    logits, statistics, sentences = made()
    with pytest.raises(InputError, match="at least 1 bin a factor of ten, got 0"):
        GradientProfiler(V, LOSSES, per_decade=0)
    with pytest.raises(InputError, match="at least 2 classes, got 1"):
        GradientProfiler(1, LOSSES)
    with pytest.raises(InputError, match="at least one loss"):
        GradientProfiler(V, {})
    with pytest.raises(InputError, match="mixed-in cross-entropy"):
        GradientProfiler(V, {"mixed": DistillationLoss(mix_weight=0.3)})
    with pytest.raises(InputError, match=r"the ensemble has shape \(9, 23\), expected \(9, 24\)"):
        GradientProfiler(V + 1, LOSSES).add(logits, statistics, sentences)
    profiler = GradientProfiler(V, LOSSES)
    with pytest.raises(InputError, match="at least one sentence"):
        profiler.profile()
    with pytest.raises(InputError, match=r"student has shape \(9, 22\)"):
        profiler.add({"student": logits["student"][:, 1:]}, statistics, sentences)
    with pytest.raises(InputError, match=r"end2 at student is not finite|not finite"):
        GradientProfiler(V, LOSSES).add(
            {"student": torch.full_like(logits["student"], torch.nan)}, statistics, sentences
        )
    profiler.add(logits, statistics, sentences)
    with pytest.raises(InputError, match="sentence 0 was added before"):
        profiler.add(logits, statistics, sentences)
    path = tmp_path / "gradients.json"
    with pytest.raises(InputError, match="no such file"):
        read_gradients(path)
    content = profile_to_dict(profiler.profile(resamples=0))
    damaged = {**content, "bins": content["bins"][:-1]}
    for text, message in (
        ("{", "not JSON"),
        ('{"schema": "other/1"}', "expected the schema seqdistill.gradients/1, got 'other/1'"),
        ("[]", "got None"),
        (json.dumps(damaged), "damaged, ValueError student, proxy_dirichlet: 6 bins, not 5"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_gradients(path)
