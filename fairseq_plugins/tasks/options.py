"""Options that the tasks of this package share: teachers, student, decoding."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from fairseq_plugins.moving import MovingOptions
from fairseq_plugins.teachers import DTYPES
from seqdistill.student import PREDICTIVES
from seqdistill.teachers.cheap.gates import TEMPERATURE
from seqdistill.teachers.placement import PLACEMENTS
from seqdistill.uncertainty.options import COMBINATIONS


@dataclass
class DistillationOptions(MovingOptions, FairseqDataclass):
    """What a task with teachers in training and uncertainty in decoding can be told."""

    ensemble_paths: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={"help": "teachers' checkpoints, separated by colons, or a quoted glob"},
    )
    ensemble_dtype: ChoiceEnum(list(DTYPES)) = field(  # type: ignore[valid-type]
        default="float32",
        metadata={"help": "precision of the teachers' forward pass; statistics are float32"},
    )
    teacher_placement: ChoiceEnum(list(PLACEMENTS)) = field(  # type: ignore[valid-type]
        default="replicate",
        metadata={
            "help": "where teachers live: replicate, all of them in every process; shard, spread "
            "over the processes of a teacher group; offload, in the host's memory, one at a time "
            "on the device"
        },
    )
    teacher_group_size: Optional[int] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "with --teacher-placement shard: how many neighbouring processes share one "
            "ensemble; by default those of a node, at most one a teacher"
        },
    )
    student_init: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "start the student from this checkpoint, or from the member of this number "
            "(1 is the first of --ensemble-paths)"
        },
    )
    layer_gates: Optional[float] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "with --criterion gated_cross_entropy: learn how likely each layer is kept, "
            "from this probability on, which is the prior's, too"
        },
    )
    gate_temperature: float = field(
        default=TEMPERATURE, metadata={"help": "of the relaxed gates of --layer-gates, above 0"}
    )
    freeze: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "training leaves the parameters of these names as they are: patterns with "
            "commas between them, such as encoder.*"
        },
    )
    train_only: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "training leaves all other parameters as they are: patterns with commas "
            "between them, such as decoder.student_outputs.*"
        },
    )
    predictive: Optional[ChoiceEnum(list(PREDICTIVES))] = field(  # type: ignore[valid-type]  # noqa: UP045
        default=None,
        metadata={
            "help": "what a Dirichlet student predicts with: base, softmax of the logits, or mean, "
            "alpha/alpha_0. Saved in the checkpoint by training (base if not given) and read back "
            "by decoding, where giving it again overrides the checkpoint"
        },
    )
    uncertainty_output: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={"help": "write every hypothesis with its uncertainty to this JSONL file"},
    )
    uncertainty_measures: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "comma-separated measures to compute and write, as `seqdistill measures` lists "
            "them; all, default; saved in the checkpoint"
        },
    )
    ensemble_combination: ChoiceEnum(list(COMBINATIONS)) = field(  # type: ignore[valid-type]
        default="pe",
        metadata={
            "help": "how several models are decoded or scored: pe, product of expectations, or ep, "
            "expectation of products"
        },
    )
    dirichlet_samples: int = field(
        default=0,
        metadata={
            "help": "draw this many members from a Dirichlet student at every step, for its joint "
            "EP measures; 0 for none. Of a student with a distribution over logits: instead of as "
            "many as its checkpoint says"
        },
    )
    dirichlet_seed: int = field(default=0, metadata={"help": "of --dirichlet-samples"})
    score_against: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "with --score-reference: checkpoints of a second system, separated by colons, "
            "that reads the same prefixes; KL(p_second||p) and whether both find the same piece "
            "the most probable are recorded at every token"
        },
    )
    score_against_combination: ChoiceEnum(list(COMBINATIONS)) = field(  # type: ignore[valid-type]
        default="pe", metadata={"help": "how the members of --score-against are combined"}
    )
    score_against_predictive: Optional[ChoiceEnum(list(PREDICTIVES))] = field(  # type: ignore[valid-type]  # noqa: UP045
        default=None,
        metadata={"help": "what --score-against decodes with, where it is a Dirichlet student"},
    )
    score_temperatures: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "with --score-reference: temperatures with commas between them, or default (17 "
            "from 0.5 to 2); what each would make of the predictions is recorded, for "
            "`seqdistill calibration --validation`"
        },
    )
    calibration: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "decoding: a file of `seqdistill calibrate`; the same hypotheses, with "
            "calibrated probabilities and uncertainties"
        },
    )
    feature_density: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "decoding: a file of `seqdistill fit-features`; hypotheses get the Mahalanobis "
            "distances of their features"
        },
    )
    # Where the training's own checkpoint is, which a teacher that moves goes on from.
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")
    reset_optimizer: bool = II("checkpoint.reset_optimizer")
    no_save_optimizer_state: bool = II("checkpoint.no_save_optimizer_state")
