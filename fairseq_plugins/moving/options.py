"""Options of ``--moving-teacher``."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum

#: What may move: nothing, the student's average, or a chain of posterior samples.
MOVING = ("none", "average", "posterior")


@dataclass
class MovingOptions:
    """Of teachers that move while their student learns."""

    moving_teacher: ChoiceEnum(list(MOVING)) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "a teacher that moves beside the training: average, the moving average of the "
            "student's weights, in place of --ensemble-paths; posterior, samples of a Langevin "
            "chain that starts from the one model of --ensemble-paths; none: teachers stand still"
        },
    )
    average_decay: float = field(
        default=0.999,
        metadata={"help": "with --moving-teacher average: what it keeps of itself in an update"},
    )
    posterior_data_size: float = field(
        default=0.0,
        metadata={
            "help": "with --moving-teacher posterior: N, target tokens of the training set "
            "(fairseq-preprocess says how many); the posterior is that of so many"
        },
    )
    posterior_rate: float = field(
        default=1e-4, metadata={"help": "learning rate of a Langevin step; of a cycle its largest"}
    )
    posterior_window: int = field(
        default=1, metadata={"help": "samples that teach at a time, the newest ones"}
    )
    posterior_thinning: int = field(
        default=1, metadata={"help": "updates between two samples, where there are no cycles"}
    )
    posterior_cycle: int = field(
        default=0,
        metadata={
            "help": "cyclical SGLD: updates of a cycle, whose last weights are its sample; 0: a "
            "constant rate"
        },
    )
    posterior_exploration: float = field(
        default=0.8, metadata={"help": "share of a cycle, at its beginning, without noise"}
    )
    posterior_temperature: float = field(
        default=1.0,
        metadata={"help": "T: 1 samples the posterior, less a colder one, 0 adds no noise"},
    )
    posterior_weight_decay: float = field(
        default=0.0, metadata={"help": "of the chain: a Gaussian prior of variance 1/(N λ)"}
    )
    posterior_seed: int = field(default=1, metadata={"help": "of the chain's noise"})
