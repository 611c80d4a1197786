"""Every number of a report, before any of it is drawn."""

from dataclasses import dataclass

from seqdistill.assessment.calibration import (
    CalibrationResult,
    Likelihood,
    hypotheses_calibration,
    hypotheses_likelihood,
)
from seqdistill.assessment.fidelity import exact_fidelity
from seqdistill.assessment.forced_sets import forced_set
from seqdistill.assessment.hypothesis_files import HypothesisSet
from seqdistill.assessment.hypothesis_sets import (
    OodAssessment,
    assess_ood,
    assess_quality,
    assess_rejection,
    assess_word_errors,
    choose_measures,
    common_model,
)
from seqdistill.assessment.numbers import Numbers
from seqdistill.assessment.quality import QualityResult
from seqdistill.assessment.rejection import RejectionResult
from seqdistill.assessment.temperature import (
    FittedTemperature,
    TemperatureOutsideError,
    fit_temperature,
)
from seqdistill.assessment.token_calibration import assess_calibration
from seqdistill.assessment.word_errors import WordErrors
from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.report.inputs import ReportInput, SystemInput
from seqdistill.uncertainty.measures import MEASURES


@dataclass(frozen=True)
class SystemResult:
    """The numbers of one system; what its input did not allow to compute is None.

    Attributes:
        system: the input.
        model: what produced the hypotheses.
        measures: those shown, in order.
        quality: corpus BLEU and chrF of the in-domain set; None where word errors were asked for.
        word_errors: of the in-domain set; None where they were not asked for.
        likelihood: of the scored references.
        calibration: along the scored references, for the reliability diagram.
        calibration_numbers: along the scored references, with intervals.
        temperature: fitted on the scored references of a validation set.
        tempered_numbers: like ``calibration_numbers``, at that temperature.
        temperature_problem: why there is none although a validation set was given.
        exact_fidelity: to the system that the references were scored against.
        ood: detection of every set by every measure.
        rejection: per measure, on the in-domain set.
    """

    system: SystemInput
    model: ModelInfo
    measures: list[str]
    quality: QualityResult | None
    likelihood: Likelihood | None
    calibration: CalibrationResult | None
    ood: OodAssessment | None
    rejection: dict[str, RejectionResult] | None
    calibration_numbers: Numbers | None = None
    temperature: FittedTemperature | None = None
    tempered_numbers: Numbers | None = None
    temperature_problem: str | None = None
    exact_fidelity: Numbers | None = None
    word_errors: WordErrors | None = None

    @property
    def name(self) -> str:
        """The system's name."""
        return self.system.name

    @property
    def shown_measures(self) -> list[str]:
        """One knowledge and one total uncertainty, the pair that plots compare.

        The choice is the first of each kind in the table's order, never the one that scores best
        on the very sets that are shown.
        """
        chosen = []
        for kind in ("knowledge", "total"):
            of_kind = [m for m in self.measures if m in MEASURES and MEASURES[m].kind == kind]
            chosen += of_kind[:1]
        return chosen or self.measures[:1]


def compute(report: ReportInput) -> list[SystemResult]:
    """Compute every number of a report.

    Raises:
        InputError: there is no system, two have one name, a measure asked for exists in no system,
            or a system's hypotheses do not fit together (the system is named).
    """
    names = [system.name for system in report.systems]
    if not names:
        raise InputError("expected at least one system, got none")
    if len(set(names)) != len(names):
        raise InputError(f"systems must have different names, got {', '.join(names)}")
    if report.examples < 0:
        raise InputError(f"examples must be 0 or more, got {report.examples}")
    results = []
    for system in report.systems:
        try:
            results.append(_compute_one(system, report))
        except InputError as error:
            raise InputError(f"system {system.name!r}: {error}") from error
    shown = {measure for result in results for measure in result.measures}
    for measure in report.measures or ():
        if measure not in shown:
            raise InputError(
                f"unknown measure {measure!r}; the systems have "
                f"{', '.join(m for r in results for m in _available(r.system))}"
            )
    return results


def _compute_one(system: SystemInput, report: ReportInput) -> SystemResult:
    available = _available(system)
    # Systems differ in what they can measure: each shows what it has of what was asked for.
    measures = [m for m in report.measures or available if m in available]
    ood = rejection = None
    if system.out_of_domain and measures:
        ood = assess_ood(
            system.in_domain,
            system.out_of_domain,
            measures=measures,
            resamples=report.resamples,
            seed=report.seed,
            n_best=system.n_best,
        )
    if measures:
        rejection = assess_rejection(
            system.in_domain,
            measures=measures,
            metric=report.quality_metric,
            normalisation=report.normalisation,
            resamples=report.resamples,
            seed=report.seed,
            n_best=system.n_best,
        )
    quality = errors = None
    if report.quality_metric == "wer":
        errors = assess_word_errors(
            system.in_domain,
            normalisation=report.normalisation,
            resamples=report.resamples,
            seed=report.seed,
        )
    else:
        quality = assess_quality(system.in_domain)
    numbers = fitted = tempered = exact = problem = None
    if system.forced:
        forced = forced_set(HypothesisSet.of("scored references", system.forced))
        numbers = assess_calibration(forced, resamples=report.resamples, seed=report.seed)
        exact = exact_fidelity(forced, resamples=report.resamples, seed=report.seed)
        if system.forced_validation is not None:
            try:
                fitted = fit_temperature(
                    system.forced_validation, resamples=report.resamples, seed=report.seed
                )
                tempered = assess_calibration(
                    forced, resamples=report.resamples, seed=report.seed, temperature=fitted
                )
            except TemperatureOutsideError as error:
                # A model that is hardly trained: everything else about it can be told.
                problem = str(error)
    return SystemResult(
        system=system,
        model=common_model(system.in_domain),
        measures=measures,
        quality=quality,
        word_errors=errors,
        likelihood=hypotheses_likelihood(system.forced) if system.forced else None,
        calibration=hypotheses_calibration(system.forced) if system.forced else None,
        ood=ood,
        rejection=rejection,
        calibration_numbers=numbers,
        temperature=fitted,
        tempered_numbers=tempered,
        temperature_problem=problem,
        exact_fidelity=exact,
    )


def _available(system: SystemInput) -> list[str]:
    return choose_measures({"the in-domain set": system.in_domain, **system.out_of_domain})
