"""What a distillation logs: sums and histograms, so batches, steps and ranks just add up."""

import math
from typing import Any

from fairseq import utils
from fairseq.logging import metrics
from torch import Tensor

from fairseq_plugins.criterions.terms import TERMS
from seqdistill.assessment.correlation import (
    PRECISION_BINS,
    histogram_quantiles,
    joint_log_histogram,
    log_histogram,
    spearman_from_joint_histogram,
)
from seqdistill.kernels import TokenRows
from seqdistill.student import (
    StudentHead,
    expectation_measures,
    expected_values,
    predictive_log_probs,
)
from seqdistill.targets.sparse import SparseTarget
from seqdistill.teachers import EnsembleStatistics
from seqdistill.uncertainty import dirichlet_uncertainty
from seqdistill.uncertainty.dirichlet import precision_of, precision_of_rows

#: Uncertainties of student and ensemble that validation correlates, by their short names.
_CORRELATED = {
    "tu": "total_uncertainty",
    "mi": "mutual_information",
    "rmi": "reverse_mutual_information",
    "epkl": "epkl",
}
_QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def logging_output(
    logits: Tensor,
    references: Tensor,
    statistics: EnsembleStatistics | SparseTarget | None,
    head: StudentHead,
    detailed: bool,
) -> dict[str, Any]:
    """Return the sums of one batch.

    Args:
        logits: (N, V) of the student.
        references: (N) reference pieces.
        statistics: the ensemble's, of the same tokens; None where they are not known.
        head: how the logits are read.
        detailed: also what costs a pass over the vocabulary (validation).
    """
    log_probs = head.log_probs(logits)
    output: dict[str, Any] = {
        "nll_loss": -log_probs.gather(-1, references.unsqueeze(-1)).sum(),
        "n_correct": logits.argmax(-1).eq(references).sum(),
    }
    if statistics is not None:
        for short, name in _CORRELATED.items():
            output[f"ensemble_{short}"] = getattr(statistics, name).sum()
    if head.offset is not None:
        precision = precision_of(logits, head.offset)
        output["_precision_histogram"] = log_histogram(precision, PRECISION_BINS)
    if not detailed or statistics is None:
        return output
    student: dict[str, Tensor] = {}
    if head.offset is not None:
        uncertainty = dirichlet_uncertainty(logits, head.offset)
        student = {short: getattr(uncertainty, name) for short, name in _CORRELATED.items()}
    student["tu_predictive"] = -(log_probs.exp() * log_probs).sum(-1)
    for short, values in student.items():
        teacher = getattr(statistics, _CORRELATED[short.removesuffix("_predictive")])
        output[f"_joint_{short}"] = joint_log_histogram(values, teacher)
    return output


def rows_output(rows: TokenRows, V: int, head: StudentHead) -> dict[str, Any]:
    """Return the sums of one training batch from what the fused loss knows of its tokens."""
    reference_logit = rows.reference_logit
    if reference_logit is None:
        raise TypeError("the fused loss was not given the references")
    log_probs = head.reference_log_probs(reference_logit, rows.log_sum, V)
    output: dict[str, Any] = {
        "nll_loss": -log_probs.sum(),
        "n_correct": reference_logit.ge(rows.largest_logit).sum(),
    }
    for short, name in _CORRELATED.items():
        output[f"ensemble_{short}"] = getattr(rows, name).sum()
    if head.offset is not None:
        precision = precision_of_rows(rows.log_sum, V, head.offset)
        output["_precision_histogram"] = log_histogram(precision, PRECISION_BINS)
    return output


def expectations_output(
    logits: Tensor, outputs: Tensor, rows: TokenRows, names: tuple[str, ...]
) -> dict[str, Any]:
    """Return what validation adds of a student of expectations.

    Args:
        logits: (N, V) of the student.
        outputs: (N, K) beside them.
        rows: with the ensemble's measures.
        names: of the K expectations.
    """
    log_probs = predictive_log_probs(logits, None, "base")
    student = expectation_measures(
        names, expected_values(outputs), -(log_probs.exp() * log_probs).sum(-1)
    )
    found = {
        f"_joint_{short}": joint_log_histogram(student[name], getattr(rows, name))
        for short, name in _CORRELATED.items()
        if name in student
    }
    return found | {"_joint_tu_predictive": found["_joint_tu"]}


def members_output(
    student: EnsembleStatistics, teacher: EnsembleStatistics, references: Tensor
) -> dict[str, Any]:
    """Return the sums of one batch of a student that is an ensemble itself.

    Args:
        student: (N, V) and (N) statistics of its heads.
        teacher: those of the ensemble.
        references: (N) reference pieces.
    """
    probs = student.mean_probs
    output: dict[str, Any] = {
        "nll_loss": -probs.gather(-1, references.unsqueeze(-1)).log().sum(),
        "n_correct": probs.argmax(-1).eq(references).sum(),
    }
    for short, name in _CORRELATED.items():
        own, others = getattr(student, name), getattr(teacher, name)
        output[f"ensemble_{short}"] = others.sum()
        output[f"_joint_{short}"] = joint_log_histogram(own, others)
    output["_joint_tu_predictive"] = output["_joint_tu"]
    return output


def reduce(logging_outputs: list[dict[str, Any]]) -> None:
    """Log the metrics of a step from the summed outputs of its batches and ranks."""

    def total(name: str) -> Any:
        return sum(output.get(name, 0) for output in logging_outputs)

    ntokens, sample_size = total("ntokens"), total("sample_size")
    metrics.log_scalar("loss", total("loss") / sample_size, sample_size, round=4)
    metrics.log_scalar("nll_loss", total("nll_loss") / ntokens / math.log(2), ntokens, round=3)
    metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))
    metrics.log_scalar("accuracy", 100.0 * total("n_correct") / ntokens, ntokens, round=2)
    for short in _CORRELATED:
        name = f"ensemble_{short}"
        if any(name in output for output in logging_outputs):
            metrics.log_scalar(name, total(name) / ntokens, ntokens, round=4)
    if any("expectations_loss" in output for output in logging_outputs):
        expected = total("expectations_loss") / ntokens
        metrics.log_scalar("expectations_loss", expected, ntokens, round=4)
    sums = {name: total(name) for name in {name for one in logging_outputs for name in one}}
    for term in TERMS:
        for name, (value, weight) in term.log(sums).items():
            metrics.log_scalar(name, value, weight, round=4)
    temperature = total("teacher_temperature") / sample_size
    if temperature != 1:
        metrics.log_scalar("teacher_temperature", temperature, sample_size, round=3)
    names = {name for output in logging_outputs for name in output if name.startswith("_")}
    for name in sorted(names):
        metrics.log_scalar(name, total(name).cpu().double().numpy(), round=None)
        if name == "_precision_histogram":
            for quantile, at in _QUANTILES.items():
                metrics.log_derived(f"student_precision_{quantile}", _quantile(at))
        else:
            metrics.log_derived(f"spearman_{name.removeprefix('_joint_')}", _spearman(name))


def _quantile(at: float) -> Any:
    import torch

    def derive(meters: Any) -> float:
        histogram = torch.as_tensor(meters["_precision_histogram"].sum)
        values = histogram_quantiles(histogram, [at], PRECISION_BINS)
        return float("nan") if values is None else float(f"{values[0]:.4g}")

    return derive


def _spearman(name: str) -> Any:
    import torch

    def derive(meters: Any) -> float:
        value = spearman_from_joint_histogram(torch.as_tensor(meters[name].sum))
        return float("nan") if value is None else round(value, 4)

    return derive
