"""A calibrator: fitted, written, read, and what decodes with it reports."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqdistill.assessment.calibrator_halves import (
    HalvesComparison,
    best_temperature,
    calibrated_predictions,
    plain_predictions,
)
from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.calibrator import Calibrator, calibrator_inputs
from seqdistill.uncertainty.calibrator_files import (
    CalibratorFile,
    calibrator_of,
    read_calibrator,
    write_calibrator,
)
from seqdistill.uncertainty.calibrator_fit import (
    CalibrationTokens,
    CalibratorFit,
    CalibratorOptions,
)
from seqdistill.uncertainty.estimators import UncertaintyOptions, estimator_for
from seqdistill.uncertainty.fitted_files import weight_sample
from seqdistill.uncertainty.measures import measures_of
from seqdistill.uncertainty.outputs import ProjectedRows

N, V, D = 600, 30, 6
QUICK = CalibratorOptions(updates=60, batch=16, rate=0.02, hidden=4, seed=3)
PROXY = StudentHead("dirichlet", offset=1.0)


def over_confident(temperature: float = 2.5, head: StudentHead | None = None) -> CalibrationTokens:
    """References drawn from the predictions at a temperature: that much the model is too sure."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=generator)
    weight = 2.0 * torch.randn(V, D, generator=generator)
    probabilities = torch.softmax(features @ weight.T / temperature, dim=-1)
    targets = torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
    sentences = torch.arange(N) // 5
    return CalibrationTokens(features, targets, sentences, weight, head=head)


def fitted(tokens: CalibrationTokens, options: CalibratorOptions = QUICK) -> Calibrator:
    fit = CalibratorFit(tokens, options)
    assert sum(fit.run()) == options.updates
    return fit.calibrator


@pytest.fixture(scope="module")
def calibrator() -> Calibrator:
    return fitted(over_confident())


def nll(tokens: CalibrationTokens, calibrator: Calibrator) -> float:
    return -float(calibrated_predictions(tokens, calibrator).log_probs.mean())


def test_a_model_that_is_too_sure_is_mended(calibrator: Calibrator) -> None:
    tokens = over_confident()
    plain, correct, partitions = plain_predictions(tokens)
    beta, weights = best_temperature(plain.log_probs, partitions)
    tempered = float((weights @ partitions).mean() - beta * plain.log_probs.mean())
    before, after = -float(plain.log_probs.mean()), nll(tokens, calibrator)
    # The bounds of recorded temperatures, 0.5 to 2, end before the best, 2.5.
    assert after < before - 0.3
    assert after < tempered + 0.05
    believed = calibrated_predictions(tokens, calibrator)
    gap = abs(believed.confidence.mean() - correct.mean())
    assert gap < 0.25 * abs(plain.confidence.mean() - correct.mean())


def test_seeds_decide_and_the_callers_draws_stay() -> None:
    tokens, few = over_confident(), replace(QUICK, updates=2)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = fitted(tokens, few).to_tensors()
    assert torch.equal(torch.rand(3), expected)
    second = fitted(tokens, few).to_tensors()
    other = fitted(tokens, replace(few, seed=4)).to_tensors()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["inner.weight"], other["inner.weight"])


def test_without_training_it_is_nearly_the_model() -> None:
    tokens = over_confident()
    with torch.no_grad():
        found = Calibrator(D)(tokens.log_probs(tokens.features), tokens.features)
    assert found.log_scale.tolist() == [0.0] * N
    plain = tokens.log_probs(tokens.features)
    assert float((found.log_probs(plain).exp() - plain.exp()).abs().max()) < 0.05


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 0.5)])
def test_every_part_of_the_loss_reaches_the_network(weights: tuple[float, float]) -> None:
    options = replace(QUICK, reference_weight=weights[0], simplex_weight=weights[1])
    fit = CalibratorFit(over_confident(), options)
    fit.loss().backward()  # type: ignore[no-untyped-call]
    gradient = fit.calibrator.outer.bias.grad
    assert gradient is not None
    assert bool(torch.isfinite(gradient).all())
    # Mixtures speak of the temperature alone, references of both.
    assert (float(gradient[0]) != 0.0) == (weights[0] > 0.0)
    assert float(gradient[1]) != 0.0


# --- decoding ---------------------------------------------------------------------------------


def decoding(
    calibrator: Calibrator, head: StudentHead | None, measures: tuple[str, ...] | None = None
) -> tuple[Any, Any, ProjectedRows, Tensor]:
    """The calibrated estimator, the model's own, rows, and tokens for them."""
    options = UncertaintyOptions(measures, calibrator=calibrator)
    tokens = over_confident()
    rows = ProjectedRows(tokens.features[:40], tokens.weight, None)
    return estimator_for([head], options), estimator_for([head]), rows, tokens.targets[:40]


@pytest.mark.parametrize("head", [None, PROXY, replace(PROXY, predictive="mean")])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_search_is_the_models_bit_for_bit(
    calibrator: Calibrator, head: StudentHead | None, temperature: float
) -> None:
    estimator, own, rows, _ = decoding(calibrator, head)
    found = estimator.read([rows], temperature)
    assert torch.equal(found.log_probs, own.read([rows], temperature).log_probs)
    believed = estimator.reported([rows])
    ordered = found.log_probs.argsort(dim=-1, descending=True)
    assert bool((believed.gather(1, ordered).diff(dim=-1) <= 1e-6).all())
    assert torch.equal(believed.argmax(dim=-1), found.log_probs.argmax(dim=-1))
    torch.testing.assert_close(believed.exp().sum(dim=-1), torch.ones(40), rtol=1e-3, atol=0)


def test_measures_are_those_of_what_is_reported(calibrator: Calibrator) -> None:
    estimator, own, rows, targets = decoding(calibrator, None, ("all",))
    reading = estimator.read([rows])
    believed = estimator.reported([rows]).double()
    found = reading.measures
    entropy = -(believed.exp() * believed).sum(dim=-1)
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(found["total_uncertainty"].double(), entropy, **close)
    assert torch.equal(found["entropy"], found["total_uncertainty"])
    own_entropy = own.read([rows]).measures["total_uncertainty"]
    torch.testing.assert_close(found["total_uncertainty_base"], own_entropy)
    largest = -believed.amax(dim=-1)
    torch.testing.assert_close(found["negative_log_max_probability"].double(), largest, **close)
    parts = found["data_uncertainty"] + found["mutual_information"]
    torch.testing.assert_close(parts, found["total_uncertainty"])
    parts = found["mutual_information"] + found["reverse_mutual_information"]
    torch.testing.assert_close(parts, found["epkl"])

    terms = estimator.token_terms(rows, targets, torch.arange(40))
    chosen = believed.gather(1, targets.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(terms[0], chosen, **close)
    own_chosen = own.token_log_probs(own.token_terms(rows, targets, torch.arange(40)))
    torch.testing.assert_close(terms[2].float(), own_chosen)
    # Rows may be asked for in any order, and several times.
    some = torch.tensor([7, 0, 7])
    again = estimator.token_terms(rows, targets[some], some)
    torch.testing.assert_close(again, terms[:, some])
    sequences = estimator.sequence_measures(found, terms)
    assert float(sequences["joint_total_uncertainty_pe"]) == pytest.approx(-float(terms[0].mean()))
    joint = sequences["joint_reverse_mutual_information_pe"]
    assert float(joint) == pytest.approx(float((terms[0] - terms[1]).mean()))
    assert set(sequences) == set(estimator.measures) >= set(measures_of("calibrated"))


def test_who_cannot_be_calibrated(calibrator: Calibrator) -> None:
    options = UncertaintyOptions(calibrator=calibrator)
    hydra = StudentHead("hydra", settings={"members": 2, "rank": 1})
    for heads in ([None, None], [PROXY, PROXY], [hydra]):
        with pytest.raises(InputError, match="one ordinary model or one Dirichlet student, not of"):
            estimator_for(heads, options)
    estimator = estimator_for([None], options)
    with pytest.raises(InputError, match="does not give them"):
        estimator.read([torch.zeros(3, V)])
    wide = ProjectedRows(torch.ones(2, D + 1), torch.ones(V, D + 1), None)
    with pytest.raises(InputError, match=f"reads {D} features, the model has {D + 1}"):
        estimator.read([wide])
    with pytest.raises(InputError, match="has no joint_total_uncertainty_ep"):
        estimator_for([None], replace(options, measures=("joint_total_uncertainty_ep",)))


# --- files ------------------------------------------------------------------------------------


def saved(calibrator: Calibrator, path: Path, weights: list[Tensor]) -> None:
    made = CalibratorFile(calibrator, "a.pt", "softmax", weight_sample(weights), {"n": 1}, {})
    write_calibrator(path, made)


def test_written_and_read(calibrator: Calibrator, tmp_path: Path) -> None:
    weights = [torch.randn(3, 4), torch.randn(5)]
    saved(calibrator, tmp_path / "c", weights)
    tokens = over_confident()
    log_probs = tokens.log_probs(tokens.features)
    found = read_calibrator(tmp_path / "c")
    assert (found.name, found.predictive, found.settings) == ("a.pt", "softmax", {"n": 1})
    again = calibrator_of(tmp_path / "c", weights, "softmax")
    with torch.no_grad():
        for one, other in zip(
            again.parameters_of(calibrator_inputs(log_probs, tokens.features)),
            calibrator.parameters_of(calibrator_inputs(log_probs, tokens.features)),
            strict=True,
        ):
            assert torch.equal(one, other)


def test_files_that_do_not_fit(calibrator: Calibrator, tmp_path: Path) -> None:
    weights = [torch.randn(3, 4)]
    path = tmp_path / "c"
    saved(calibrator, path, weights)
    with pytest.raises(InputError, match=r"fitted for a\.pt, whose weights are not those"):
        calibrator_of(path, [weights[0] + 1], "softmax")
    with pytest.raises(InputError, match="decodes with its softmax, not with its mean"):
        calibrator_of(path, weights, "mean")
    with pytest.raises(InputError, match="no such file"):
        read_calibrator(tmp_path / "none")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="not a calibrator, or damaged"):
        read_calibrator(tmp_path / "cut")
    tensors = calibrator.to_tensors()
    tensors["outer.bias"][0] = float("nan")
    for wrong, message in (
        (tensors, "not finite"),
        ({"inner.weight": torch.zeros(3)}, "missing or of a wrong shape"),
        ({"inner.weight": torch.zeros(3, 20)}, "no calibrator"),
    ):
        with pytest.raises(InputError, match=message):
            Calibrator.from_tensors(wrong)


# --- halves, and bad input --------------------------------------------------------------------


def test_halves_judge_what_the_other_has_fitted() -> None:
    comparison = HalvesComparison(over_confident(1.6), QUICK)
    assert sum(comparison.run()) == comparison.steps == 120
    found = comparison.results()
    assert list(found) == ["uncalibrated", "temperature", "calibrated"]
    assert found["temperature"].temperatures == pytest.approx([1.6, 1.6], abs=0.25)
    assert found["temperature"].nll < found["uncalibrated"].nll
    assert found["calibrated"].nll < found["uncalibrated"].nll
    assert found["calibrated"].ece < found["uncalibrated"].ece


def test_a_temperature_by_hand() -> None:
    """Two pieces with p = 0.9 and the first right in 3 of 4: the best temperature has p = 0.75."""
    tokens = CalibrationTokens(
        torch.ones(4, 1),
        torch.tensor([0, 0, 0, 1]),
        torch.arange(4),
        torch.tensor([[np.log(9.0)], [0.0]], dtype=torch.float32),
    )
    plain, correct, partitions = plain_predictions(tokens)
    beta, weights = best_temperature(plain.log_probs, partitions)
    assert beta == pytest.approx(np.log(3.0) / np.log(9.0), rel=2e-3)
    assert correct.tolist() == [1, 1, 1, 0]
    assert weights @ partitions == pytest.approx(np.log(0.9**beta + 0.1**beta), abs=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"updates": 0}, "expected updates of at least 1"),
        ({"rate": 0.0}, "expected a rate above 0"),
        ({"concentration": float("nan")}, "expected a concentration above 0"),
        ({"members": 1}, "at least 2 positions"),
        ({"reference_weight": 0.0, "simplex_weight": 0.0}, "one of them above 0"),
        ({"simplex_weight": -1.0}, "0 or above"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CalibratorOptions(**wrong)


def test_too_little_to_fit_on() -> None:
    tokens = over_confident()
    three = tokens.of_tokens(tokens.sentences < 3)
    with pytest.raises(InputError, match="at least 4 sentences"):
        HalvesComparison(three, QUICK)
    with pytest.raises(InputError, match="expected tokens"):
        CalibratorFit(tokens.of_tokens(tokens.sentences < 0), QUICK)
