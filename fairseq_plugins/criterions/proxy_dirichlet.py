"""``--criterion proxy_dirichlet``: Proxy-Dirichlet targets with reverse (or forward) KL."""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum

from fairseq_plugins.criterions.distillation import DistillationConfig, DistillationCriterion
from seqdistill.kernels import DistillationLoss
from seqdistill.losses.proxy_dirichlet import NORMALISATIONS
from seqdistill.student import StudentHead
from seqdistill.targets.proxy import CONCENTRATIONS


@dataclass
class ProxyDirichletConfig(DistillationConfig):
    """Options of ``proxy_dirichlet``."""

    offset: float = field(
        default=1.0,
        metadata={"help": "o in alpha = exp(logit) + o, 1 or 0; saved in the checkpoint"},
    )
    concentration: ChoiceEnum(list(CONCENTRATIONS)) = field(  # type: ignore[valid-type]
        default="mkl",
        metadata={"help": "the proxy's precision: mkl (the paper's), epkl, or exact"},
    )
    normalisation: ChoiceEnum(list(NORMALISATIONS)) = field(  # type: ignore[valid-type]
        default="proxy",
        metadata={
            "help": "what the KL is divided by: proxy, the proxy's precision, or total, precision "
            "plus vocabulary size (the released research code's)"
        },
    )
    direction: ChoiceEnum(["reverse", "forward"]) = field(  # type: ignore[valid-type]
        default="reverse", metadata={"help": "direction of the KL; forward is for comparison"}
    )


@register_criterion("proxy_dirichlet", dataclass=ProxyDirichletConfig)
class ProxyDirichletCriterion(DistillationCriterion):
    """Distil an ensemble's distribution through its Proxy-Dirichlet."""

    cfg: ProxyDirichletConfig

    def distillation_loss(self) -> DistillationLoss:
        """Return the Proxy-Dirichlet loss of this direction."""
        cfg = self.cfg
        reverse = str(cfg.direction) == "reverse"
        return DistillationLoss(
            "proxy_dirichlet" if reverse else "proxy_dirichlet_forward",
            concentration=str(cfg.concentration),
            normalisation=str(cfg.normalisation),
            offset=cfg.offset,
            mix_weight=cfg.mix_weight,
            label_smoothing=cfg.label_smoothing,
        )

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a Dirichlet head."""
        return StudentHead("dirichlet", self.cfg.offset, str(predictive), measures)
