import json
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance
import torch
from safetensors.torch import save_file

from seqdistill.errors import InputError
from seqdistill.uncertainty.densities import (
    FeatureMoments,
    GaussianDensity,
    ModelDensity,
    distance_measures,
    oas_shrinkage,
    pool_features,
)
from seqdistill.uncertainty.density_files import (
    densities_of,
    read_densities,
    write_densities,
)
from seqdistill.uncertainty.fitted_files import weight_sample
from tests.reference import densities as reference


def rows_of(n: int, D: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    """Correlated vectors (n, D)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, generator=generator, dtype=torch.float64)
    white = torch.randn(n, D, generator=generator, dtype=torch.float64)
    return white @ mixing + offset


def moments_of(rows: torch.Tensor, batch: int) -> FeatureMoments:
    moments = FeatureMoments()
    for part in torch.split(rows, batch):
        moments.add(part)
    return moments


# --- moments and shrinkage --------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_moments_are_those_of_two_passes(batch: int) -> None:
    rows = rows_of(50, 4)
    moments = moments_of(rows, batch)
    mean, covariance = reference.sample_covariance(rows.numpy())
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, covariance, rtol=1e-12)
    assert moments.count == 50


def test_a_large_mean_costs_no_digits() -> None:
    # Sums of squares of 1e8 would keep none of the 1e-4 that the variance is.
    near, far = rows_of(60, 3) * 0.01, rows_of(60, 3) * 0.01 + 1e8
    found, expected = moments_of(far, 8).covariance, moments_of(near, 8).covariance
    # What is left is the rounding of the numbers themselves, 1e8 · eps of 0.01.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


def test_shrinkage_against_the_reference_and_by_hand() -> None:
    rows = rows_of(30, 5)
    covariance = moments_of(rows, 30).covariance
    expected = reference.oas(covariance.numpy(), 30)
    assert oas_shrinkage(covariance, 30) == pytest.approx(expected, rel=1e-12)
    # D = 2: (1 − 2/2) tr(S²) + tr² = 16 over (n + 1 − 1)(10 − 8) = 2n.
    diagonal = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert oas_shrinkage(diagonal, 100) == pytest.approx(16 / 200, rel=1e-14)
    assert oas_shrinkage(diagonal, 4) == 1.0
    assert oas_shrinkage(torch.eye(3, dtype=torch.float64), 10) == 1.0


def test_more_sentences_are_shrunk_less() -> None:
    covariance = moments_of(rows_of(40, 6), 40).covariance
    found = [oas_shrinkage(covariance, n) for n in (10, 100, 1000)]
    assert found == sorted(found, reverse=True)
    assert all(0.0 < value <= 1.0 for value in found)


# --- distances --------------------------------------------------------------------------------


def test_a_known_gaussian() -> None:
    density = GaussianDensity(
        torch.tensor([1.0, -2.0], dtype=torch.float64),
        torch.tensor([[4.0, 0.0], [0.0, 0.25]], dtype=torch.float64), 10, 0.0,
    )  # fmt: skip
    rows = torch.tensor([[1.0, -2.0], [3.0, -2.0], [1.0, -1.0], [3.0, -1.0]])
    assert density.squared_distance(rows).tolist() == [0.0, 1.0, 4.0, 5.0]
    # ρ = 1: a multiple of the identity, tr(S)/2 = 2.125.
    round_one = GaussianDensity(density.mean, density.covariance, 10, 1.0)
    assert round_one.squared_distance(rows[3:]).item() == pytest.approx(5 / 2.125, rel=1e-14)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, None])
def test_distances_against_scipy_and_an_explicit_inverse(shrinkage: float | None) -> None:
    rows, others = rows_of(40, 5, offset=3.0), rows_of(6, 5, seed=1)
    density = moments_of(rows, 9).density(shrinkage)
    mean, covariance = reference.sample_covariance(rows.numpy())
    used = reference.oas(covariance, 40) if shrinkage is None else shrinkage
    found = density.squared_distance(others).tolist()
    for value, row in zip(found, others.numpy(), strict=True):
        expected = reference.squared_distance(row, mean, covariance, used)
        assert value == pytest.approx(expected, rel=1e-9)
        if shrinkage == 0.0:
            inverse = np.linalg.inv(covariance)
            by_scipy = scipy.spatial.distance.mahalanobis(row, mean, inverse) ** 2
            assert value == pytest.approx(by_scipy, rel=1e-9)


def test_the_mean_over_what_was_fitted_is_the_number_of_features() -> None:
    # (1/n) Σ (h − μ)ᵀ S⁻¹ (h − μ) = tr(S⁻¹ S) = D, whatever the vectors are.
    rows = rows_of(200, 7, offset=-1.0)
    density = moments_of(rows, 32).density(0.0)
    assert density.squared_distance(rows).mean().item() == pytest.approx(7.0, rel=1e-11)


def test_distances_do_not_depend_on_the_coordinates() -> None:
    rows, others = rows_of(60, 4), rows_of(5, 4, seed=1)
    mixing = rows_of(4, 4, seed=2)
    plain = moments_of(rows, 60).density(0.0).squared_distance(others)
    mixed = moments_of(rows @ mixing + 5.0, 60).density(0.0).squared_distance(others @ mixing + 5.0)
    torch.testing.assert_close(mixed, plain, rtol=1e-9, atol=0.0)


def test_features_in_a_plane() -> None:
    # What a layer norm leaves: S is singular, and shrinking makes it usable.
    rows = rows_of(50, 4)
    rows = rows - rows.mean(dim=1, keepdim=True)
    with pytest.raises(InputError, match=r"singular with a shrinkage of 0; leave the shrinkage"):
        moments_of(rows, 50).density(0.0)
    density = moments_of(rows, 50).density()
    assert 0.0 < density.shrinkage < 0.5
    assert torch.isfinite(density.squared_distance(rows)).all()


def test_relative_distance_of_a_background_like_the_domain_is_nothing() -> None:
    gaussian = moments_of(rows_of(40, 3), 40).density()
    other = moments_of(rows_of(40, 3, seed=3), 40).density()
    sides = {"encoder": gaussian, "decoder": other}
    pooled = {"encoder": [rows_of(5, 3, seed=4)], "decoder": [rows_of(5, 3, seed=5)]}
    alike = distance_measures([ModelDensity("a", [], sides, sides)], pooled)
    for side in sides:
        assert alike[f"relative_mahalanobis_{side}"].abs().max() == 0.0
    swapped = {"encoder": other, "decoder": gaussian}
    found = distance_measures([ModelDensity("a", [], sides, swapped)], pooled)
    expected = gaussian.squared_distance(pooled["encoder"][0]) - other.squared_distance(
        pooled["encoder"][0]
    )
    torch.testing.assert_close(found["relative_mahalanobis_encoder"], expected)


def test_members_are_averaged_each_by_its_own_density() -> None:
    # Of different widths: members need not be alike.
    one, two = moments_of(rows_of(40, 3), 40).density(), moments_of(rows_of(40, 5), 40).density()
    densities = [
        ModelDensity("a", [], {"encoder": one, "decoder": one}),
        ModelDensity("b", [], {"encoder": two, "decoder": two}),
    ]
    first, second = rows_of(4, 3, seed=1), rows_of(4, 5, seed=1)
    found = distance_measures(densities, {"encoder": [first, second], "decoder": [first, second]})
    assert found.keys() == {"mahalanobis_encoder", "mahalanobis_decoder"}
    expected = (one.squared_distance(first) + two.squared_distance(second)) / 2
    torch.testing.assert_close(found["mahalanobis_encoder"], expected)


def test_padding_is_not_pooled() -> None:
    features = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [float("nan"), 1e30]]])
    mask = torch.tensor([[True, True, False]])
    assert pool_features(features, mask).tolist() == [[2.0, 4.0]]
    with pytest.raises(InputError, match="one counted position in every sentence"):
        pool_features(features, torch.zeros(1, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.ones(1, 3), "at least 2 sentences, got 1"),
        (torch.ones(5, 3), "the same features"),
    ],
)
def test_too_little_to_fit(rows: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        moments_of(rows, 5).density()


def test_bad_vectors() -> None:
    moments = moments_of(rows_of(5, 3), 5)
    with pytest.raises(InputError, match="width 3, got width 4"):
        moments.add(torch.ones(2, 4))
    with pytest.raises(InputError, match="NaN or infinite features"):
        moments.add(torch.full((1, 3), float("inf")))
    with pytest.raises(InputError, match="width 3, got 4; the density is of another model"):
        moments.density().squared_distance(torch.ones(1, 4))
    with pytest.raises(InputError, match=r"from 0 to 1, got 1\.5"):
        moments.density(1.5)


# --- files ------------------------------------------------------------------------------------


def layer(seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return list(torch.nn.Linear(7, 5).parameters())


def written(path: Path, seeds: tuple[int, ...] = (1, 2)) -> list[ModelDensity]:
    models = []
    for seed in seeds:
        encoder = moments_of(rows_of(30, 4, seed=seed), 30).density()
        decoder = moments_of(rows_of(30, 3, seed=seed + 10), 30).density(0.25)
        weights = weight_sample(layer(seed))
        both = {"encoder": encoder, "decoder": decoder}
        models.append(ModelDensity(f"{seed}.pt", weights, both, {"encoder": encoder}))
    write_densities(path, models, {"data": "somewhere"})
    return models


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    models = written(tmp_path / "a.density")
    found = read_densities(tmp_path / "a.density")
    assert [model.name for model in found] == ["1.pt", "2.pt"]
    for one, other in zip(models, found, strict=True):
        assert one.in_domain.keys() == other.in_domain.keys()
        assert other.background.keys() == {"encoder"}
        for side, density in one.in_domain.items():
            assert torch.equal(other.in_domain[side].mean, density.mean)
            assert torch.equal(other.in_domain[side].covariance, density.covariance)
            assert other.in_domain[side].shrinkage == density.shrinkage
            assert other.in_domain[side].count == 30
        assert all(map(torch.equal, one.weights, other.weights))
    assert not list(tmp_path.glob("*.part"))


def test_models_are_known_by_their_weights_in_any_dtype(tmp_path: Path) -> None:
    path = tmp_path / "a.density"
    written(path)
    found = densities_of(path, [("mine", layer(2))])
    assert [model.name for model in found] == ["2.pt"]
    for dtype in (torch.float16, torch.bfloat16):
        cast = [weight.to(dtype) for weight in layer(1)]
        assert densities_of(path, [("mine", cast)])[0].name == "1.pt"
    with pytest.raises(InputError, match=r"fitted on 1\.pt, 2\.pt, whose weights are not .* mine"):
        densities_of(path, [("mine", layer(3))])
    nearly = layer(1)
    nearly[0].data[0, 0] += 1e-6
    with pytest.raises(InputError, match="whose weights are not"):
        densities_of(path, [("mine", nearly)])


def test_a_sample_covers_every_parameter() -> None:
    sample = weight_sample([torch.arange(100.0), torch.tensor(3.0), torch.arange(2.0)])
    assert [len(part) for part in sample] == [16, 1, 2]
    assert sample[0][0] == 0.0
    assert sample[0][-1] == 99.0


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.density"
    with pytest.raises(InputError, match="no such file; expected what `seqdistill fit-features`"):
        read_densities(path)
    written(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.density: not a density of features, or damaged"):
        read_densities(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"expected schema 'seqdistill.feature-density/1', got N"):
        read_densities(path)
    metadata = {"schema": "seqdistill.feature-density/1", "models": [{"name": "a"}]}
    save_file({"x": torch.ones(1)}, path, {"seqdistill": json.dumps(metadata)})
    with pytest.raises(InputError, match=r"a\.density: damaged"):
        read_densities(path)
