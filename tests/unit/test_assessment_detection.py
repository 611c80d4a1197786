import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

import seqdistill
from seqdistill.assessment import aupr, auroc, detect, detection, fpr_at_95_tpr, roc_curve
from seqdistill.errors import InputError
from tests.reference import assessment as reference

METRICS = ("auroc", "aupr_out", "aupr_in", "fpr_at_95_tpr")


def scores(seed: int, *, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    inside, outside = random.normal(size=137), random.normal(size=61) + 0.8
    return (inside.round(1), outside.round(1)) if tied else (inside, outside)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_sklearn(seed: int, tied: bool) -> None:
    inside, outside = scores(seed, tied=tied)
    label = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    both = np.r_[inside, outside]
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(label, both), abs=1e-12)
    assert aupr(inside, outside) == pytest.approx(average_precision_score(label, both), abs=1e-12)
    in_domain = average_precision_score(1 - label, -both)
    assert aupr(inside, outside, positive="in") == pytest.approx(in_domain, abs=1e-12)
    fpr, tpr, thresholds = sklearn_roc_curve(label, both, drop_intermediate=False)
    curve = roc_curve(inside, outside)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


@pytest.mark.parametrize("tied", [False, True])
def test_agrees_with_loops(tied: bool) -> None:
    inside, outside = scores(2, tied=tied)
    result = detect(inside, outside, resamples=0)
    expected = {
        "auroc": reference.auroc(inside, outside),
        "aupr_out": reference.average_precision(outside, inside),
        "aupr_in": reference.average_precision(-inside, -outside),
        "fpr_at_95_tpr": reference.fpr_at_95_tpr(inside, outside),
    }
    for name, value in expected.items():
        assert getattr(result, name).value == pytest.approx(value, abs=1e-12), name
        assert getattr(result, name).low is None


def test_bootstrap_agrees_with_resampled_sets() -> None:
    # The intervals are the percentiles of the metrics of sets that were really resampled.
    inside, outside = scores(3, tied=True)
    resamples = 40
    draws = [
        np.random.default_rng([5, which]).integers(0, len(values), size=(resamples, len(values)))
        for which, values in enumerate((inside, outside))
    ]
    result = detect(inside, outside, resamples=resamples, seed=5)
    slow = [
        (auroc(inside[i], outside[j]), aupr(inside[i], outside[j]),
         aupr(inside[i], outside[j], positive="in"), fpr_at_95_tpr(inside[i], outside[j]))
        for i, j in zip(*draws, strict=True)
    ]  # fmt: skip
    for name, values in zip(METRICS, zip(*slow, strict=True), strict=True):
        low, high = np.quantile(values, [0.025, 0.975])
        assert getattr(result, name).low == pytest.approx(low, abs=1e-12), name
        assert getattr(result, name).high == pytest.approx(high, abs=1e-12), name


def test_bootstrap_does_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    # Odd sizes: a generator that buffers half a word must not lose it at a cut.
    inside, outside = scores(4, tied=False)
    whole = detect(inside[:-2], outside, resamples=101, seed=1)
    monkeypatch.setattr(detection, "_CHUNK", 700)
    assert detect(inside[:-2], outside, resamples=101, seed=1) == whole


def test_one_seed_draws_the_same_sentences_for_every_measure() -> None:
    # A strictly increasing map changes no metric; coarser scores change the cut of the bootstrap,
    # and the in-domain draws do not depend on the other set.
    inside, outside = scores(5, tied=False)
    plain, mapped = detect(inside, outside, seed=2), detect(np.exp(inside), np.exp(outside), seed=2)
    assert plain == mapped
    assert detect(inside, outside, seed=3) != plain


def test_intervals_cover() -> None:
    # Two normals one standard deviation apart: AUROC is Φ(1/√2) = 0.7602.
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        estimate = detect(
            random.normal(size=120), random.normal(size=120) + 1.0, resamples=200, seed=seed
        ).auroc
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= 0.7602 <= estimate.high
    assert covered >= 51  # 95 % in expectation; fewer than 51 of 60 has a chance below 1 %


def test_perfect_useless_and_reversed_scores() -> None:
    perfect = detect([0.0, 1.0], [2.0, 3.0], resamples=50)
    assert [getattr(perfect, name).value for name in METRICS] == [1.0, 1.0, 1.0, 0.0]
    assert perfect.auroc.low == perfect.auroc.high == 1.0
    constant = detect([1.0] * 3, [1.0], resamples=0)
    assert [getattr(constant, name).value for name in METRICS] == [0.5, 0.25, 0.75, 1.0]
    assert auroc([2.0, 3.0], [0.0, 1.0]) == 0.0


def test_signature_says_how() -> None:
    result = detect([0.0, 1.0], [2.0], measure="epkl", resamples=10, seed=7)
    fields = "measure:epkl|est:chain-rule|comb:pe|norm:length|nbest:1"
    counts = f"ties:half|in:2|out:1|bs:10|rs:7|ci:95|version:{seqdistill.__version__}"
    metrics = "+".join(METRICS)
    assert result.signature == f"{fields}|metric:{metrics}|{counts}"
    assert result.signatures()["aupr_in"] == f"{fields}|metric:aupr_in|positive:in|{counts}"
    assert list(result.signatures()) == list(METRICS)
    assert "bs:no" in detect([0.0], [1.0], resamples=0).signature


def test_a_thousand_resamples_are_quick() -> None:
    random = np.random.default_rng(0)
    inside, outside = random.normal(size=1000), random.normal(size=1000)
    detect(inside, outside, resamples=10)
    start = time.process_time()
    detect(inside, outside, resamples=1000)
    assert time.process_time() - start < 2.0  # about 0.1 s; a loop over resamples takes 2 s


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        ([], [1.0], "in-domain scores: expected at least one value"),
        ([1.0], [], "out-of-domain scores: expected at least one value"),
        ([1.0, float("nan")], [1.0], "in-domain scores: 1 of 2 values are not finite .* index 1"),
        ([1.0], [float("inf")], "out-of-domain scores"),
        ([[1.0]], [1.0], "one dimension"),
        (["a"], [1.0], "vector of numbers"),
    ],
)
def test_bad_scores(inside: list, outside: list, message: str) -> None:
    for function in (detect, auroc, aupr, fpr_at_95_tpr, roc_curve):
        with pytest.raises(InputError, match=message):
            function(inside, outside)


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="positive must be"):
        aupr([0.0], [1.0], positive="ood")
    for settings in ({"resamples": -1}, {"seed": -1}):
        with pytest.raises(InputError, match="0 or more"):
            detect([0.0], [1.0], **settings)
