"""Decoding and scoring with uncertainty: fairseq's search, observed from its own hooks."""

from collections.abc import Sequence
from typing import Any

from fairseq.tasks.fairseq_task import FairseqTask

from fairseq_plugins.generation.distances import densities_for
from fairseq_plugins.generation.ensemble import UncertaintyEnsembleModel, estimator_of
from fairseq_plugins.generation.generator import (
    AlignedUncertaintySequenceGenerator,
    UncertaintySequenceGenerator,
)
from fairseq_plugins.generation.output import HypothesisRecorder
from fairseq_plugins.generation.scorer import UncertaintyScorer
from fairseq_plugins.generation.second import SecondSystem, load_second_system
from seqdistill.errors import InputError
from seqdistill.uncertainty.densities import ModelDensity
from seqdistill.uncertainty.estimators import UncertaintyOptions

__all__ = [
    "AlignedUncertaintySequenceGenerator",
    "HypothesisRecorder",
    "SecondSystem",
    "UncertaintyEnsembleModel",
    "UncertaintyScorer",
    "UncertaintySequenceGenerator",
    "build_uncertainty_generator",
    "densities_for",
    "load_second_system",
]


def build_uncertainty_generator(
    task: FairseqTask,
    models: Any,
    args: Any,
    options: UncertaintyOptions | None = None,
    *,
    against: SecondSystem | None = None,
    temperatures: Sequence[float] = (),
    densities: Sequence[ModelDensity] | None = None,
    **kwargs: Any,
) -> Any:
    """Build what ``task.build_generator`` returns: a generator, or a scorer of given targets.

    Args:
        task: a fairseq task; its search strategies and lengths are fairseq's own.
        models: several models, one, or one Dirichlet student (``model.student_head``).
        args: fairseq's generation settings.
        options: measures and combination of the members; None: the defaults, PE.
        against: of a scorer, see there.
        temperatures: of a scorer, likewise.
        densities: of the models' features, as ``densities_for`` reads them, if distances from them
            are wanted.
        **kwargs: what else ``FairseqTask.build_generator`` takes, ``extra_gen_cls_kwargs`` …

    Returns:
        An object with ``generate(models, sample, …)``, whose hypotheses carry their uncertainty.
        Its ``n_best`` is the ``--nbest`` to write.

    Raises:
        InputError: a Dirichlet student among several models, or options that exclude each other.
    """
    estimator_of(models)  # a wrong mixture of models is an error before anything is decoded
    alignment = getattr(args, "print_alignment", None)
    generator: Any
    if getattr(args, "score_reference", False):
        if alignment:
            raise InputError("--print-alignment aligns translations; drop it, or --score-reference")
        generator = UncertaintyScorer(
            task.target_dictionary,
            options=options,
            against=against,
            temperatures=temperatures,
            densities=densities,
        )
    elif against is not None or temperatures:
        raise InputError(
            "a second system and temperatures are for given texts; add --score-reference, or leave "
            "--score-against and --score-temperatures away"
        )
    else:
        generator_class = kwargs.pop("seq_gen_cls", None)
        extra = dict(kwargs.pop("extra_gen_cls_kwargs", None) or {})
        if generator_class is None and alignment:
            generator_class = AlignedUncertaintySequenceGenerator
            extra["print_alignment"] = alignment
        if generator_class is None:
            generator_class = UncertaintySequenceGenerator
        if issubclass(
            generator_class, UncertaintySequenceGenerator | AlignedUncertaintySequenceGenerator
        ):
            extra |= {"options": options, "densities": densities}
        elif densities is not None:
            raise InputError(
                f"densities of features need a search of this package, not {generator_class}"
            )
        # Not task.build_generator, which is what calls this function.
        generator = FairseqTask.build_generator(
            task,
            models,
            args,
            seq_gen_cls=generator_class,
            extra_gen_cls_kwargs=extra,
            **kwargs,
        )
    generator.n_best = getattr(args, "nbest", 1)
    return generator
