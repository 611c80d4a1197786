"""Batches that leave no sentence out, and that are the same after an interruption."""

from typing import Any

from fairseq.tasks.fairseq_task import FairseqTask


class WholeBatches(FairseqTask):
    """What this package asks of fairseq's batches; a class to stand before a task's own."""

    #: The subset other than the training set that was asked for last.
    validated_subset = ""

    def get_batch_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """Return fairseq's iterator, of every sentence, and the same after an interruption.

        Outside training every batch size is allowed: fairseq drops the last batch where it is not
        a multiple of ``--required-batch-size-multiple`` (8 by default), so up to 7 sentences of a
        validation or test set would be missing from every number, without a word.

        A training that goes on in a later epoch has the batches of one that was not interrupted:
        fairseq makes them once, by a seed that the first epoch of the process changes.
        """
        dataset = args[0] if args else kwargs["dataset"]
        if dataset is not self.datasets.get(self.cfg.train_subset):
            kwargs["required_batch_size_multiple"] = 1
            names = [name for name, other in self.datasets.items() if other is dataset]
            self.validated_subset = names[0] if names else ""
        epoch = kwargs.get("epoch", 1)
        if self._makes_batches_once(dataset, kwargs):
            kwargs["epoch"] = 1
        iterator = super().get_batch_iterator(*args, **kwargs)
        if kwargs.get("epoch", 1) != epoch:
            iterator.epoch = epoch
            dataset.set_epoch(epoch)
        return iterator

    def _makes_batches_once(self, dataset: Any, kwargs: dict[str, Any]) -> bool:
        """Whether a new iterator is for all epochs, not one of many that an epoch has each."""
        subset = self.cfg.train_subset
        return (
            dataset is self.datasets.get(subset)
            and dataset not in self.dataset_to_epoch_iter
            and self.can_reuse_epoch_itr(dataset)
            and not self.has_sharded_data(subset)
            and not kwargs.get("disable_iterator_cache", False)
            and not kwargs.get("update_epoch_batch_itr", False)
        )
