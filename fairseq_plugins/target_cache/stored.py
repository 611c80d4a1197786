"""Stored targets in a training: from fairseq's batches to the rows of a store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq_plugins.target_cache.corpus import data_print, sentence_ids
from seqdistill.errors import InputError
from seqdistill.targets.sparse import SparseTarget
from seqdistill.targets.store import TargetStore


class StoredTargets:
    """A store that was compared with the data of a training; use :func:`open_store`.

    Attributes:
        store: the store.
    """

    def __init__(self, store: TargetStore) -> None:
        self.store = store
        self._prior, self._log_prior = store.prior, store.log_prior

    @property
    def temperature(self) -> float:
        """The temperature at which the teachers were read."""
        return self.store.temperature

    @property
    def members(self) -> int:
        """The number of teachers."""
        return self.store.members

    @property
    def subset(self) -> str:
        """The name of the subset that the store was made of."""
        return str(self.store.plan.settings.origin.get("subset"))

    def targets(self, sample: dict[str, Any], token_mask: Tensor) -> SparseTarget:
        """Return the targets of a batch, on its device.

        Every sentence is compared with the one that the store was made of.

        Args:
            sample: fairseq's batch; ``id`` (B) are the sentences' numbers in their subset.
            token_mask: (B, T) True where ``target`` counts, N tokens.

        Returns:
            N targets, in the order of ``target[token_mask]``.

        Raises:
            InputError: a sentence is damaged in the store, or not the one that was stored.
        """
        target = self.store.batch(
            sample["id"].tolist(),
            token_mask.sum(dim=1).tolist(),
            sample["target"][token_mask].cpu().numpy(),
        )
        device = token_mask.device
        if device.type == "cpu":
            return target
        if self._prior.device != device:  # moved once, not with every batch
            self._prior = self._prior.to(device)
            self._log_prior = None if self._log_prior is None else self._log_prior.to(device)
        return replace(target, prior=self._prior, log_prior=self._log_prior).to(device)


def open_store(path: str | Path, task: Any, split: str) -> StoredTargets:
    """Open a store for a training, and compare it with the data.

    Args:
        path: folder of the store.
        task: a fairseq translation task.
        split: a subset that the task has loaded.

    Raises:
        InputError: no store, a damaged one, or one of another dictionary or of other data; what
            differs is named.
    """
    store = TargetStore.open(path, dictionary_symbols=task.target_dictionary.symbols)
    dataset = task.datasets.get(split)
    if dataset is None:
        raise InputError(f"the subset {split} is not loaded, so {path} cannot be compared with it")
    store.check_data(data_print(dataset), lambda index: sentence_ids(dataset, index))
    return StoredTargets(store)
