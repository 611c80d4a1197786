"""The losses of this project fused with the projections, in one pass over the vocabulary."""

from seqdistill.kernels.fused import PRODUCTS, FusedLoss, fused_distillation_loss
from seqdistill.kernels.hydra import HydraLoss, fused_hydra_loss
from seqdistill.kernels.kdgan import KdganResult, chunked_kdgan_loss
from seqdistill.kernels.logit_space import (
    LogitSpaceLoss,
    LogitSpaceResult,
    fused_logit_space_loss,
)
from seqdistill.kernels.members import MemberLogits, MemberProjections, member_statistics
from seqdistill.kernels.paired import PairedMembers
from seqdistill.kernels.plain import plain_distillation_loss
from seqdistill.kernels.select import BACKENDS, backend_status
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.sharded import ShardedMembers, sharded_statistics
from seqdistill.kernels.walk import TokenRows

__all__ = [
    "BACKENDS",
    "PRODUCTS",
    "DistillationLoss",
    "FusedLoss",
    "HydraLoss",
    "KdganResult",
    "LogitSpaceLoss",
    "LogitSpaceResult",
    "MemberLogits",
    "MemberProjections",
    "PairedMembers",
    "ShardedMembers",
    "TokenRows",
    "backend_status",
    "chunked_kdgan_loss",
    "fused_distillation_loss",
    "fused_hydra_loss",
    "fused_logit_space_loss",
    "member_statistics",
    "plain_distillation_loss",
    "sharded_statistics",
]
