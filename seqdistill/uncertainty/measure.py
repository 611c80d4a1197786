"""What is known of a measure: one row of the table of measures."""

from dataclasses import dataclass
from typing import Literal

#: What produces hypotheses: several ordinary models, Dirichlet students, one ordinary model, the
#: heads of a Hydra student, students with a distribution over logits, one of expectations, one
#: model with a calibration.
MODEL_KINDS = (
    "ensemble",
    "dirichlet",
    "softmax",
    "hydra",
    "laplace",
    "gaussian",
    "concrete",
    "expectations",
    "calibrated",
)

Level = Literal["token", "sequence"]
Estimate = Literal["chain-rule", "joint", "outputs", "features"]
Combination = Literal["pe", "ep"]
Kind = Literal["total", "data", "knowledge"]


@dataclass(frozen=True)
class Measure:
    """What a measure is, where it comes from and who has it.

    Attributes:
        name: the key in ``Hypothesis.uncertainty``.
        symbol: how tables and plots call it.
        level: ``token`` (a number a position, averaged for the sequence) or ``sequence``.
        estimate: of the sequence's value: ``chain-rule`` (mean over positions), ``joint`` (from
            the log-probability of the hypothesis), ``outputs`` (from translations by each member)
            or ``features`` (from hidden states).
        combination: how members make one sequence model: ``pe``, product of expectations, or
            ``ep``, expectation of products. A Dirichlet student emulates ``pe``. None: it does not
            depend on that, or follows whatever was decoded.
        kind: the uncertainty measured: ``total``, ``data`` or ``knowledge``.
        needs: the model kinds that have it, of :data:`MODEL_KINDS`.
        formula: at one position for token measures, for y of length L for sequence measures.
        source: where it was published.
        default_for: the kinds that compute it unless something else is asked for.
        unit: ``nats``, ``nats²`` or ``none``.
        higher_is_more_uncertain: False only where a published number points elsewhere.
        needs_samples: the kinds that have it only with ``--dirichlet-samples``.
        added_by: the verb or the option that adds it to hypotheses, where it takes more than their
            decoding, so that no choice of measures computes it; empty for all others.
    """

    name: str
    symbol: str
    level: Level
    estimate: Estimate
    combination: Combination | None
    kind: Kind
    needs: tuple[str, ...]
    formula: str
    source: str
    default_for: tuple[str, ...] = ()
    unit: str = "nats"
    higher_is_more_uncertain: bool = True
    needs_samples: tuple[str, ...] = ()
    added_by: str = ""
