"""``--optimizer sgld``: stochastic gradient Langevin dynamics."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II

from seqdistill.errors import InputError
from seqdistill.teachers.cheap.langevin import PRECONDITIONERS, Langevin


@dataclass
class SgldConfig(FairseqDataclass):
    """Options of the optimizer."""

    sgld_data_size: float = field(
        default=0.0,
        metadata={
            "help": "N: target tokens of the training set (fairseq-preprocess says how many); the "
            "posterior is that of so many"
        },
    )
    sgld_temperature: float = field(
        default=1.0,
        metadata={"help": "T: 1 samples the posterior, less a colder one, 0 adds no noise"},
    )
    sgld_preconditioner: ChoiceEnum(PRECONDITIONERS) = field(  # type: ignore[valid-type]
        default="rmsprop",
        metadata={"help": "rmsprop (pSGLD), which transformers need, or none (SGLD)"},
    )
    sgld_alpha: float = field(
        default=0.99, metadata={"help": "rmsprop: what a mean square keeps of itself in an update"}
    )
    sgld_eps: float = field(
        default=1e-5, metadata={"help": "rmsprop: added to the root of the mean square"}
    )
    sgld_burn_in: int = field(default=0, metadata={"help": "updates before noise is added"})
    sgld_seed: int = field(
        default=1, metadata={"help": "of the noise, which depends on it and on the update alone"}
    )
    weight_decay: float = field(
        default=0.0, metadata={"help": "λ: a Gaussian prior of variance 1/(Nλ)"}
    )
    lr: list[float] = II("optimization.lr")  # noqa: RUF009 (a string)
    zero_sharding: str = II("distributed_training.zero_sharding")
    ddp_backend: str = II("distributed_training.ddp_backend")


@register_optimizer("sgld", dataclass=SgldConfig)
class FairseqSgld(FairseqOptimizer):
    """SGLD on fairseq's gradients, which are of the mean loss of a target token.

    Args:
        cfg: the options.
        params: parameters.

    Raises:
        InputError: an option out of its range, or parameters that are in parts.
    """

    def __init__(self, cfg: Any, params: Any) -> None:
        super().__init__(cfg)
        if not cfg.sgld_data_size > 0:
            raise InputError(
                "--optimizer sgld needs --sgld-data-size: the target tokens of the training set, "
                "as fairseq-preprocess prints and logs them"
            )
        if cfg.zero_sharding == "os" or cfg.ddp_backend == "fully_sharded":
            raise InputError(
                "--optimizer sgld: all processes must have all parameters, so that their noise is "
                "the same; leave --zero-sharding and --ddp-backend fully_sharded away"
            )
        self._optimizer = Langevin(params, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What replaces the settings of a checkpoint that a training goes on from."""
        cfg = self.cfg
        return {
            "lr": cfg.lr[0],
            "data_size": cfg.sgld_data_size,
            "temperature": cfg.sgld_temperature,
            "weight_decay": cfg.weight_decay,
            "preconditioner": str(cfg.sgld_preconditioner),
            "alpha": cfg.sgld_alpha,
            "eps": cfg.sgld_eps,
            "burn_in": cfg.sgld_burn_in,
            "seed": cfg.sgld_seed,
        }

    def load_state_dict(
        self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None
    ) -> None:
        """Go on from a checkpoint with the options of this training; the schedule says the rest."""
        super().load_state_dict(state_dict, optimizer_overrides)
        for group in self.param_groups:
            group.update(self.optimizer_config | {"explores": False} | (optimizer_overrides or {}))

    @property
    def supports_flat_params(self) -> bool:
        """Whether all parameters may be one vector: each number moves by itself."""
        return True
