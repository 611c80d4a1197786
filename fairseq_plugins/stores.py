"""``--target-store``: the stores of a training, one for each subset of its data."""

import logging
import os
from typing import Any

from fairseq_plugins.target_cache import StoredTargets, open_store
from seqdistill.errors import InputError
from seqdistill.kernels import DistillationLoss
from seqdistill.targets.store import TargetStore

logger = logging.getLogger(__name__)


class TargetStores:
    """The stores that ``--target-store`` names, opened when their subset is loaded.

    Args:
        paths: folders, separated by colons.
        loss: what is trained; a store must hold what it needs.
        temperature: the teachers', that of the training's criterion.
        is_annealed: whether the criterion lets it fall.
        least_members: that the criterion needs.

    Raises:
        InputError: the teachers' temperature is annealed, which needs the teachers themselves.
    """

    def __init__(
        self,
        paths: str,
        loss: DistillationLoss,
        temperature: float,
        is_annealed: bool,
        least_members: int = 2,
    ) -> None:
        self.least_members = least_members
        self.paths = [path for path in paths.split(os.pathsep) if path]
        self.loss = loss
        self.temperature = temperature
        self._by_subset: dict[str, StoredTargets] = {}
        if is_annealed:
            raise InputError(
                "--temperature-anneal-end: stored targets were read at one temperature; leave the "
                "annealing away, or train with --ensemble-paths and without --target-store"
            )

    def load(self, subset: str, task: Any, *, required: bool) -> None:
        """Open the store of a subset that the task has loaded.

        Raises:
            InputError: there is none although it is required, or it is damaged, of other data or a
                dictionary, or lacks what the loss needs.
        """
        for path in self.paths:
            if TargetStore.open(path).plan.settings.origin.get("subset") == subset:
                stored = open_store(path, task, subset)
                self._check(path, stored, training=required)
                self._by_subset[subset] = stored
                logger.info(f"targets of {subset}: {path}, {stored.members} teachers")
                return
        if required:
            raise InputError(
                f"--target-store {os.pathsep.join(self.paths)}: no store is of the subset "
                f"{subset}; make one with seqdistill cache-targets --subset {subset}"
            )
        logger.warning(
            f"no target store is of the subset {subset}: its loss is the cross-entropy with the "
            "references. seqdistill cache-targets --subset makes one, given after a colon"
        )

    def of(self, subset: str) -> StoredTargets | None:
        """Return the store of a subset, if there is one."""
        return self._by_subset.get(subset)

    def _check(self, path: str, stored: StoredTargets, training: bool) -> None:
        settings = stored.store.plan.settings
        expected = self.temperature if training else 1.0
        if settings.temperature != expected:
            option = "--teacher-temperature" if training else "validation"
            raise InputError(
                f"{path}: its teachers were read at temperature {settings.temperature}, "
                f"{option} has {expected}; make the store again with --temperature {expected}"
            )
        if settings.members < self.least_members:
            raise InputError(
                f"{path} is of 1 model, which has no disagreement to distil; make a store of at "
                "least 2, or train with mean_kl or kdgan"
            )
        if self.loss.needs_mean_log_probs and not settings.for_end2:
            raise InputError(f"{path} does not hold what end2 needs; make it again with --for-end2")
        is_exact = self.loss.is_proxy and self.loss.concentration == "exact"
        if is_exact and not settings.exact_precision:
            raise InputError(
                f"{path} does not hold the precision of --concentration exact; make it again with "
                "--exact-precision, or take mkl or epkl"
            )
