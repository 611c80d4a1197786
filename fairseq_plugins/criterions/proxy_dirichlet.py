"""``--criterion proxy_dirichlet``: Proxy-Dirichlet targets with reverse (or forward) KL."""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

from fairseq_plugins.criterions.distillation import DistillationConfig, DistillationCriterion
from seqdistill.losses import proxy_dirichlet_forward_loss, proxy_dirichlet_loss
from seqdistill.losses.proxy_dirichlet import NORMALISATIONS
from seqdistill.student import StudentHead
from seqdistill.targets import proxy_dirichlet_target
from seqdistill.targets.proxy import CONCENTRATIONS
from seqdistill.teachers import EnsembleStatistics


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

    def distillation_loss(
        self, logits: Tensor, statistics: EnsembleStatistics
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of :func:`seqdistill.losses.proxy_dirichlet_loss`."""
        cfg = self.cfg
        target = proxy_dirichlet_target(statistics, str(cfg.concentration))
        reverse = str(cfg.direction) == "reverse"
        loss = proxy_dirichlet_loss if reverse else proxy_dirichlet_forward_loss
        return loss(logits, target, offset=cfg.offset, normalisation=str(cfg.normalisation))

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a Dirichlet head."""
        return StudentHead("dirichlet", self.cfg.offset, str(predictive), measures)
