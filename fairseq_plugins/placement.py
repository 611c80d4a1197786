"""``--teacher-placement``: teachers in every process, spread over some, or in the host's memory."""

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairseq_plugins.teachers import TeacherEnsemble, find_members
from seqdistill.errors import InputError
from seqdistill.kernels import (
    MemberLogits,
    MemberProjections,
    ShardedMembers,
    sharded_statistics,
)
from seqdistill.teachers import EnsembleStatistics
from seqdistill.teachers.group import TeacherGroup, together, world_size
from seqdistill.teachers.placement import check_group_size, choose_group_size, members_of

logger = logging.getLogger(__name__)


class Teachers(Protocol):
    """What a criterion asks an ensemble for, wherever its members live."""

    paths: list[str]

    def members(
        self, net_input: dict[str, Any], token_mask: Tensor, temperature: float = 1.0
    ) -> MemberProjections | MemberLogits | ShardedMembers:
        """Return what the fused loss streams."""
        ...

    def statistics(
        self, net_input: dict[str, Any], token_mask: Tensor, temperature: float = 1.0
    ) -> EnsembleStatistics:
        """Return the statistics of the N tokens that count, (N, V) and (N)."""
        ...


class ShardedTeachers:
    """M frozen models of which this process holds some; its teacher group has them all.

    Every process of the group must ask for the same thing at the same time; fairseq's trainings
    and validations do, because all processes take as many steps (with a dummy batch where data
    have run out).

    Args:
        paths: the checkpoints of all members.
        load: makes a model of a path, for those of this process only.
        dtype: of the members' forward pass.
        group: the processes that share them.

    Raises:
        InputError: a checkpoint is bad or does not fit the data, here or in another process.
    """

    def __init__(
        self,
        paths: Sequence[str],
        load: Callable[[str], nn.Module],
        dtype: str,
        group: TeacherGroup,
    ) -> None:
        self.paths = list(paths)
        self.group = group
        self._own = members_of(group.rank, group.size, len(self.paths))
        own_paths = [self.paths[m] for m in self._own]
        self._ensemble = together(lambda: TeacherEnsemble(own_paths, load, dtype))
        logger.info(
            f"teachers {', '.join(str(m + 1) for m in self._own)} of {len(self.paths)} live here; "
            f"processes {group.ranks[0]} to {group.ranks[-1]} share them"
        )

    @property
    def models(self) -> list[nn.Module]:
        """The members of this process."""
        return self._ensemble.models

    @torch.no_grad()
    def members(
        self, net_input: dict[str, Any], token_mask: Tensor, temperature: float = 1.0
    ) -> ShardedMembers:
        """Return this process's members, read on the batches of its whole group.

        Args:
            net_input: fairseq's, of this process.
            token_mask: (B, T) True where a token counts, N of them.
            temperature: of the teachers.
        """
        given = {**net_input, _MASK: token_mask}
        for name, value in given.items():
            if not isinstance(value, Tensor):
                raise InputError(
                    f"the teachers' input {name} is a {type(value).__name__}; --teacher-placement "
                    "shard sends tensors only, take replicate or offload"
                )
        parts = []
        for batch in self.group.gather(given):
            mask = batch.pop(_MASK)
            parts.append(self._ensemble.members(batch, mask, temperature))
        return ShardedMembers(parts, self.group, self._own, self.paths)

    def statistics(
        self, net_input: dict[str, Any], token_mask: Tensor, temperature: float = 1.0
    ) -> EnsembleStatistics:
        """Return the statistics of this process's tokens, of all members.

        Args:
            net_input: as in :meth:`members`.
            token_mask: (B, T) True where a token counts, N of them.
            temperature: of the teachers.
        """
        return sharded_statistics(self.members(net_input, token_mask, temperature))


_MASK = "token_mask"


def place_teachers(
    cfg: Any, load: Callable[[str], nn.Module], in_training: bool, least: int = 2
) -> Teachers:
    """Load the ensemble of ``--ensemble-paths`` where ``--teacher-placement`` says.

    Args:
        cfg: a task's options.
        load: makes a model of a path.
        in_training: False where a checkpoint's options are used again, to validate it: its
            processes need not be as many.
        least: members that the criterion needs.

    Raises:
        InputError: options contradict one another or the number of processes, or a checkpoint is
            bad, in this process or another.
    """
    placement, asked = str(cfg.teacher_placement), cfg.teacher_group_size
    if asked is not None and placement != "shard":
        raise InputError(
            f"--teacher-group-size {asked} is of --teacher-placement shard, got "
            f"--teacher-placement {placement}; leave one of them away"
        )
    paths = together(lambda: find_members(cfg.ensemble_paths, least))
    dtype = str(cfg.ensemble_dtype)
    if placement != "shard" or (world_size() == 1 and not in_training):
        offload = placement == "offload"
        return together(lambda: TeacherEnsemble(paths, load, dtype, offload))
    size = asked if asked is not None else _default_group_size(len(paths))
    check_group_size(size, world_size(), len(paths))
    if size == 1:
        if asked is None:
            logger.warning(
                "--teacher-placement shard: the processes here give teacher groups of 1, so every "
                "process holds all teachers; --teacher-group-size sets another size"
            )
        return together(lambda: TeacherEnsemble(paths, load, dtype))
    _check_same(paths)
    return ShardedTeachers(paths, load, dtype, TeacherGroup.create(size))


def check_store_options(cfg: Any) -> None:
    """Raise an :class:`InputError` if teachers are placed although a store stands for them."""
    for option, value in _placement_options(cfg):
        raise InputError(
            f"--target-store loads no teacher, so {option} {value} has nothing to place; leave "
            f"{option} or --target-store away"
        )


def check_no_placement(cfg: Any) -> None:
    """Raise an :class:`InputError` if teachers are placed although the criterion has none."""
    for option, value in _placement_options(cfg):
        raise InputError(
            f"{option} {value} places teachers, but --criterion is none that distils; leave "
            f"{option} away, or take one such as proxy_dirichlet, end2 or mean_kl"
        )


def _placement_options(cfg: Any) -> list[tuple[str, Any]]:
    """Return the options of placement that were given, and their values."""
    given = []
    if str(cfg.teacher_placement) != "replicate":
        given.append(("--teacher-placement", str(cfg.teacher_placement)))
    if cfg.teacher_group_size is not None:
        given.append(("--teacher-group-size", cfg.teacher_group_size))
    return given


def _default_group_size(M: int) -> int:
    if world_size() == 1:
        return 1
    hosts = [""] * world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    return choose_group_size(hosts, M)


def _check_same(paths: list[str]) -> None:
    """Refuse processes that found other teachers: each would hold the wrong ones."""
    found: list[list[str]] = [[]] * world_size()
    dist.all_gather_object(found, paths)
    for rank, others in enumerate(found):
        if others != found[0]:
            raise InputError(
                f"--ensemble-paths: process 0 found {len(found[0])} teachers "
                f"({', '.join(found[0])}), process {rank} {len(others)} ({', '.join(others)}); "
                "all processes must see the same files"
            )
