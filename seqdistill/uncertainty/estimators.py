"""From a model's outputs to its uncertainty: one estimator per kind of model, for every adapter.

A framework adapter knows how to run a decoder; an estimator knows what the outputs mean. It reads
the members' outputs at some rows, one member at a time, and answers with what is decoded and with
the token measures; later it looks up the tokens that were chosen there (a beam search knows them
one step afterwards); and when a hypothesis ends it makes the sequence measures of both.

    read(outputs)                      rows of positions → log-probabilities (R, V), measures (R,)
    token_terms(output, tokens, rows)  a member's output and tokens → what it says of them (k, N)
    token_uncertainty(measures, terms) along T positions → the chosen measures of each
    sequence_measures(measures, terms) along T positions → one number a sequence and measure

The terms of the members are concatenated: (K, N) with K = M for an ensemble, 3 for a Dirichlet
student (and one more for each member drawn from it), 3M for M of them, 1 for an ordinary model.
A calibrated model searches as it is and reports what its calibrator makes of it.
Students with more outputs than logits are read as :mod:`seqdistill.uncertainty.heads` says.
"""

from collections.abc import Sequence

from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.calibrated import CalibratedEstimator
from seqdistill.uncertainty.ensemble import EnsembleEstimator
from seqdistill.uncertainty.heads import outputs_estimator
from seqdistill.uncertainty.options import UncertaintyOptions
from seqdistill.uncertainty.precision import dirichlet_estimator
from seqdistill.uncertainty.reading import Estimator, TokenReading
from seqdistill.uncertainty.single import DirichletEstimator, SoftmaxEstimator
from seqdistill.uncertainty.students import DirichletMixtureEstimator

__all__ = [
    "CalibratedEstimator",
    "DirichletEstimator",
    "DirichletMixtureEstimator",
    "EnsembleEstimator",
    "Estimator",
    "SoftmaxEstimator",
    "TokenReading",
    "UncertaintyOptions",
    "estimator_for",
]


def estimator_for(
    heads: Sequence[StudentHead | None], options: UncertaintyOptions | None = None
) -> Estimator:
    """Choose the estimator of the models that decode together.

    Args:
        heads: one per model: how its logits are read, None for an ordinary model.
        options: which measures, and how members are combined; None: the defaults, PE.

    Raises:
        InputError: no model, or a Dirichlet student beside ordinary models (it is an ensemble
            already; averaging it with them would leave its uncertainty undefined), students that
            are read in different ways, a measure that these models do not have, or options of
            another kind of model.

    Example:
        >>> estimator_for([None, None]).info.kind
        'ensemble'
    """
    if options is not None and options.calibrator is not None:
        # Its measures are chosen from what a calibrated model has, not from what the model has.
        own = UncertaintyOptions(combination=options.combination)
        return CalibratedEstimator(estimator_for(heads, own), options.calibrator, options)
    if not heads:
        raise InputError("expected at least one model, got none")
    estimator = outputs_estimator(heads, options)
    if estimator is not None:
        return estimator
    dirichlet = [head for head in heads if head is not None and head.kind == "dirichlet"]
    if dirichlet and len(dirichlet) < len(heads):
        raise InputError(
            f"{len(dirichlet)} of the {len(heads)} models are Dirichlet students; a Dirichlet "
            "student emulates a whole ensemble and is decoded alone (give one --path), or together "
            "with other Dirichlet students"
        )
    if dirichlet:
        return dirichlet_estimator(dirichlet, options)
    if options is not None and options.dirichlet_samples > 0:
        raise InputError(
            f"--dirichlet-samples {options.dirichlet_samples} draws members from a Dirichlet "
            "student, and no model here is one; leave it away"
        )
    if len(heads) == 1:
        return SoftmaxEstimator(options)
    return EnsembleEstimator(len(heads), options)
