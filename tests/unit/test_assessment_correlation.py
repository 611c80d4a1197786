import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from seqdistill.assessment import (
    PRECISION_BINS,
    UNCERTAINTY_BINS,
    LogBins,
    average_ranks,
    histogram_quantiles,
    joint_log_histogram,
    log_histogram,
    spearman,
    spearman_from_joint_histogram,
)
from seqdistill.errors import InputError


def pairs(n: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, generator=generator).exp()
    return x, x * torch.randn(n, generator=generator).mul(0.7).exp()


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_spearman_agrees_with_scipy(digits: int) -> None:
    x, y = (values.numpy().round(digits) for values in pairs(300))
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    np.testing.assert_allclose(average_ranks(x), rankdata(x))


def test_spearman_of_nothing_to_say() -> None:
    assert spearman([0.1, 0.1, 0.1], [1.0, 2.0, 3.0]) is None
    with pytest.raises(InputError, match="at least two pairs"):
        spearman([1.0], [1.0])
    with pytest.raises(InputError, match="one length"):
        spearman([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="not finite"):
        spearman([1.0, float("nan")], [1.0, 2.0])


def test_bins_are_fixed() -> None:
    # Histograms of different versions must add: these numbers are part of the format.
    assert (UNCERTAINTY_BINS.low, UNCERTAINTY_BINS.high, UNCERTAINTY_BINS.count) == (1e-8, 1e3, 128)
    assert (PRECISION_BINS.low, PRECISION_BINS.high, PRECISION_BINS.count) == (1e-2, 1e12, 256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_histogram_agrees_with_numpy(dtype: torch.dtype) -> None:
    values = pairs(500)[0].to(dtype)
    expected, _ = np.histogram(values.double().numpy(), bins=UNCERTAINTY_BINS.edges())
    histogram = log_histogram(values)
    assert histogram.dtype == torch.float64
    assert histogram.tolist() == expected.tolist()


def test_outside_values_count_in_the_end_bins() -> None:
    bins = LogBins(1.0, 100.0, 2)
    values = torch.tensor([-1.0, 0.0, 1.0, 9.9, 10.0, 100.0, 1e9, float("inf")])
    assert log_histogram(values, bins).tolist() == [4.0, 4.0]


def test_masked_values_do_not_count_whatever_they_are() -> None:
    values = torch.tensor([[0.5, float("nan")], [2.0, float("inf")]])
    mask = torch.tensor([[True, False], [True, False]])
    assert log_histogram(values, token_mask=mask).tolist() == (
        log_histogram(torch.tensor([0.5, 2.0])).tolist()
    )
    joint = joint_log_histogram(values, values, token_mask=mask)
    assert joint.sum().item() == 2.0
    assert log_histogram(torch.zeros(0)).sum().item() == 0.0


def test_sums_over_batches_and_ranks_are_the_whole() -> None:
    x, y = pairs()
    whole = joint_log_histogram(x, y, UNCERTAINTY_BINS, PRECISION_BINS)
    parts = sum(
        joint_log_histogram(a, b, UNCERTAINTY_BINS, PRECISION_BINS)
        for a, b in zip(x.split(777), y.split(777), strict=True)
    )
    assert torch.equal(whole, parts)
    assert whole.shape == (128, 256)
    assert torch.equal(whole.sum(dim=1), log_histogram(x))
    assert torch.equal(whole.sum(dim=0), log_histogram(y, PRECISION_BINS))


def test_joint_histogram_spearman_is_that_of_the_binned_values() -> None:
    x, y = pairs()
    joint = joint_log_histogram(x, y)
    edges = UNCERTAINTY_BINS.edges()[1:-1]
    binned = [np.digitize(values.double().numpy(), edges) for values in (x, y)]
    value = spearman_from_joint_histogram(joint)
    assert value == pytest.approx(spearmanr(*binned).statistic, abs=1e-10)
    assert value == pytest.approx(spearman(x, y), abs=0.01)  # what the bins cost


def test_joint_histogram_spearman_of_billions_of_tokens() -> None:
    joint = torch.tensor([[3e9, 1e9], [1e9, 3e9]], dtype=torch.float64)
    assert spearman_from_joint_histogram(joint) == pytest.approx(0.5, abs=1e-12)


def test_joint_histogram_spearman_without_an_answer() -> None:
    assert spearman_from_joint_histogram(torch.zeros(4, 4)) is None
    one_row = torch.zeros(4, 4)
    one_row[1] = torch.arange(4.0)
    assert spearman_from_joint_histogram(one_row) is None


def test_quantiles_lie_within_a_bin_of_the_truth() -> None:
    x, _ = pairs()
    wanted = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
    quantiles = histogram_quantiles(log_histogram(x), wanted)
    ratio = quantiles / np.quantile(x.numpy(), wanted)
    width = UNCERTAINTY_BINS.edges()[1] / UNCERTAINTY_BINS.edges()[0]
    assert (ratio < width).all()
    assert (ratio > 1 / width).all()
    assert (np.diff(quantiles) > 0).all()
    assert histogram_quantiles(torch.zeros(128), [0.5]) is None


def test_bad_input() -> None:
    nan = torch.tensor([1.0, float("nan")])
    with pytest.raises(InputError, match="NaN among the 2"):
        log_histogram(nan)
    with pytest.raises(InputError, match="second: NaN"):
        joint_log_histogram(torch.ones(2), nan)
    with pytest.raises(InputError, match="equal shapes"):
        joint_log_histogram(torch.ones(2), torch.ones(3))
    with pytest.raises(InputError, match="mask has shape"):
        log_histogram(torch.ones(2), token_mask=torch.ones(3))
    with pytest.raises(InputError, match="expected 128 bins, got 4"):
        histogram_quantiles(torch.ones(4), [0.5])
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        histogram_quantiles(torch.ones(128), [1.5])
    with pytest.raises(InputError, match="2 dimensions"):
        spearman_from_joint_histogram(torch.ones(4))
    with pytest.raises(InputError, match="not negative"):
        spearman_from_joint_histogram(-torch.ones(2, 2))
    for low, high, count in ((0.0, 1.0, 4), (2.0, 1.0, 4), (1.0, 2.0, 0)):
        with pytest.raises(InputError):
            LogBins(low, high, count)
