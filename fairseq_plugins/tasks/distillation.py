"""What every task of this package does: teachers and heads in training, uncertainty in decoding."""

import copy
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fairseq.criterions import FairseqCriterion
from fairseq.models import BaseFairseqModel
from fairseq.tasks.fairseq_task import FairseqTask
from torch import Tensor, nn

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.freezing import freeze_parts
from fairseq_plugins.gates import check_gates, gate_layers, gate_settings
from fairseq_plugins.generation import (
    HypothesisRecorder,
    SecondSystem,
    build_uncertainty_generator,
    densities_for,
    load_second_system,
)
from fairseq_plugins.generation.ensemble import estimator_of
from fairseq_plugins.outputs import attach_outputs, split_weights, student_outputs
from fairseq_plugins.placement import (
    Teachers,
    check_no_placement,
    check_store_options,
    place_teachers,
)
from fairseq_plugins.stores import TargetStores
from fairseq_plugins.teachers import find_members
from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.student.kinds import KINDS
from seqdistill.targets.sparse import SparseTarget
from seqdistill.uncertainty.measures import select_measures
from seqdistill.uncertainty.options import UncertaintyOptions
from seqdistill.uncertainty.second_reading import read_temperatures

logger = logging.getLogger(__name__)


class DistillationTask(FairseqTask):
    """Frozen teachers, student heads and uncertainty, for any of fairseq's tasks with one decoder.

    It stands before fairseq's own class among the parents of a task, which calls :meth:`begin`
    last in its ``__init__``, passes what fairseq builds through :meth:`with_head` and
    :meth:`with_teachers`, and says how one member is loaded (:meth:`load_member`).

    Training: a distillation criterion asks for :attr:`teachers`. How the student's logits are to
    be read (:class:`~seqdistill.student.StudentHead`) travels in the checkpoint as the task's
    state; decoding gives it back to each model as ``model.student_head``.
    """

    cfg: Any

    def begin(self, cfg: Any) -> None:
        """Take the options; ``cfg`` has those of ``DistillationOptions``."""
        self.cfg = cfg
        self.teachers: Teachers | None = None
        self.stores: TargetStores | None = None
        self.student_head: StudentHead | None = None
        self.bpe: Any = None
        self.tokenizer: Any = None
        self._validated_subset = ""
        self._student: BaseFairseqModel | None = None
        self._head_of_next_model: StudentHead | None = None
        self._gates = gate_settings(cfg)
        self._gates_of_next_model: dict[str, float] | None = None
        self._initial: InitialOutputs | None = None
        self._measures = select_measures(cfg.uncertainty_measures)
        self._recorder: HypothesisRecorder | None = None
        self._is_interactive = False

    def load_member(self, path: str) -> nn.Module:
        """Return one teacher, on the CPU.

        Raises:
            InputError: a bad checkpoint, or one that does not fit this task.
        """
        raise NotImplementedError

    def check_member(self, path: str, state: dict[str, Any]) -> None:
        """Check a checkpoint that is to run beside others of this task.

        Args:
            path: its path, for messages.
            state: its content.

        Raises:
            InputError: it does not fit the data.
        """
        raise NotImplementedError

    def sibling(self, predictive: str | None = None) -> Any:
        """Return a task of the same data that loads other models, as ``--predictive`` reads them.

        This one keeps what it knows of its own.
        """
        raise NotImplementedError

    @property
    def student(self) -> BaseFairseqModel | None:
        """The model in training; None where nothing is trained."""
        return self._student

    # -- what travels in the checkpoint ----------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what fairseq saves as ``task_state``: the student's head, the layers' gates."""
        state: dict[str, Any] = {}
        if self.student_head:
            state["student_head"] = self.student_head.to_dict()
        if self._gates:
            state["layer_gates"] = self._gates
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember head and gates of the model that fairseq builds next from the checkpoint."""
        saved = state_dict.get("student_head")
        self._head_of_next_model = StudentHead.from_dict(saved) if saved else None
        self._gates_of_next_model = state_dict.get("layer_gates")

    # -- training ---------------------------------------------------------------------------

    def with_head(self, model: BaseFairseqModel, from_checkpoint: bool) -> BaseFairseqModel:
        """Return a model with its head, if from a checkpoint; in training with its first weights.

        Args:
            model: as fairseq built it.
            from_checkpoint: whether it will get a checkpoint's weights.
        """
        head, self._head_of_next_model = self._head_of_next_model, None
        gates, self._gates_of_next_model = self._gates_of_next_model, None
        gate_layers(model, gates if from_checkpoint else self._gates)
        if from_checkpoint:
            attach_outputs(model, head)
            attach_head(model, self._override(head))
            if head is not None:
                self._measures = self._measures or head.measures
        else:
            self._student = model
            if self.cfg.student_init:
                self._initialise(model, self.cfg.student_init)
        return model

    def with_teachers(self, criterion: FairseqCriterion) -> FairseqCriterion:
        """Return a criterion; if it distils, load the teachers and settle the student's head."""
        if not getattr(criterion, "needs_teachers", False):
            if self._student is not None:
                check_no_placement(self.cfg)
                check_gates(self._gates, criterion)
                self._give_outputs(None)
            return criterion
        check_gates(self._gates, criterion)
        self.student_head = criterion.student_head(
            predictive=self.cfg.predictive or "base",
            measures=self._measures,
        )
        if self._student is not None:
            # Before teachers are built, which draws numbers, and not in all processes as many.
            self._give_outputs(self.student_head)
            attach_head(self._student, self.student_head)
        target_store = getattr(self.cfg, "target_store", None)
        if target_store:
            check_store_options(self.cfg)
            self.stores = criterion.target_stores(target_store)
        else:
            in_training = self._student is not None
            self.teachers = place_teachers(
                self.cfg, self.load_member, in_training, criterion.least_members
            )
        if self._student is not None:
            criterion.meet(self._student, self.teachers)
        return criterion

    def freeze_parts(self) -> None:
        """Leave the parts of ``--freeze`` and ``--train-only`` out of a training.

        To be called when the student is whole, before the optimizer is made of its parameters.
        """
        if self._student is not None:
            freeze_parts(self._student, self.cfg)

    def stored_targets(
        self, sample: dict[str, Any], token_mask: Tensor, training: bool
    ) -> SparseTarget | None:
        """Return the stored targets of a batch's counted tokens; None if there are none."""
        if self.stores is None:
            return None
        stored = self.stores.of(self.cfg.train_subset if training else self._validated_subset)
        return None if stored is None else stored.targets(sample, token_mask)

    def train_step(  # noqa: D102 (fairseq's own)
        self,
        sample: Any,
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> Any:
        if hasattr(criterion, "set_num_updates"):
            criterion.set_num_updates(update_num)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def fit_weights(self, weights: dict[str, Any], model: BaseFairseqModel) -> dict[str, Any]:
        """Return the weights of ``--student-init`` without what need not fit the student."""
        return weights

    def _initialise(self, model: BaseFairseqModel, student_init: str) -> None:
        path = student_init
        if student_init.isdecimal():
            members = find_members(self.cfg.ensemble_paths, least=1)
            if not 1 <= int(student_init) <= len(members):
                raise InputError(
                    f"--student-init {student_init}: expected a path or a member from 1 to "
                    f"{len(members)}"
                )
            path = members[int(student_init) - 1]
        state = load_checkpoint(path)
        model.upgrade_state_dict(state["model"])
        weights, outputs = split_weights(state["model"])
        if outputs:
            saved = (state.get("task_state") or {}).get("student_head") or {}
            self._initial = InitialOutputs(path, StudentHead.from_dict(saved), outputs)
        weights = self.fit_weights(weights, model)
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"--student-init {path}: its weights do not fit the student's architecture; use "
                f"the same --arch and sizes, or leave --student-init away ({error})"
            ) from error
        logger.info(f"student initialised from {path}")

    def _give_outputs(self, head: StudentHead | None) -> None:
        """Give the student of a training its outputs, those of ``--student-init`` if it had some.

        Raises:
            InputError: that was a student of another kind, or with other settings.
        """
        model, initial, self._initial = self._student, self._initial, None
        attach_outputs(model, head)
        if initial is None:
            return
        outputs = student_outputs(model)
        if head is None or (head.kind, head.settings) != (initial.head.kind, initial.head.settings):
            wanted = "an ordinary model" if head is None else _described(head)
            raise InputError(
                f"--student-init {initial.path}: it is {_described(initial.head)}, and this "
                f"criterion trains {wanted}; start from a student of the same kind and settings, "
                "or from an ordinary model"
            )
        assert outputs is not None  # such a head has outputs: the checkpoint had their weights
        names = {name.rpartition("student_outputs.")[2]: name for name in initial.weights}
        outputs.load_state_dict({name: initial.weights[key] for name, key in names.items()})

    # -- decoding ---------------------------------------------------------------------------

    def _override(self, head: StudentHead | None) -> StudentHead | None:
        if self.cfg.predictive is None:
            return head
        if head is None or str(self.cfg.predictive) not in KINDS[head.kind].predictives:
            if self.cfg.predictive == "base":
                return head
            raise InputError(
                "--predictive mean needs a Dirichlet student, or one of a distribution over "
                "logits; this checkpoint is "
                + ("an ordinary model" if head is None else f"one of kind {head.kind}")
            )
        return replace(head, predictive=str(self.cfg.predictive))

    def build_bpe(self, args: Any) -> Any:
        """Build the subword decoder, and keep it for the recorded texts."""
        self.bpe = super().build_bpe(args)
        return self.bpe

    def build_tokenizer(self, args: Any) -> Any:
        """Build the tokenizer, and keep it for the recorded texts."""
        self.tokenizer = super().build_tokenizer(args)
        return self.tokenizer

    def build_generator(
        self,
        models: list[Any],
        args: Any,
        seq_gen_cls: Any = None,
        extra_gen_cls_kwargs: dict[str, Any] | None = None,
        prefix_allowed_tokens_fn: Any = None,
    ) -> Any:
        """Build a generator whose hypotheses carry uncertainty (or fairseq's, if one is asked)."""
        if seq_gen_cls is not None:
            return FairseqTask.build_generator(
                self, models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn
            )
        options = self.uncertainty_options()
        densities = None
        if self._student is None:
            # In training the head of the student may not be known yet, so nothing is said then.
            estimator_of(models, options)
            if self.cfg.feature_density is not None:
                densities = densities_for(self.cfg.feature_density, models)
        return build_uncertainty_generator(
            self,
            models,
            args,
            options,
            against=self._second_system(),
            temperatures=read_temperatures(self.cfg.score_temperatures),
            densities=densities,
            extra_gen_cls_kwargs=extra_gen_cls_kwargs,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        )

    def _second_system(self) -> SecondSystem | None:
        if self.cfg.score_against is None:
            return None
        predictive = self.cfg.score_against_predictive
        return load_second_system(
            [path for path in self.cfg.score_against.split(os.pathsep) if path],
            self,
            combination=str(self.cfg.score_against_combination),
            predictive=None if predictive is None else str(predictive),
        )

    def uncertainty_options(self) -> UncertaintyOptions:
        """Return which measures are computed, and how members are combined."""
        return UncertaintyOptions(
            self._measures,
            str(self.cfg.ensemble_combination),
            self.cfg.dirichlet_samples,
            self.cfg.dirichlet_seed,
        )

    def get_batch_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """Return fairseq's iterator; the recorder learns from it how many sentences come.

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
            self._validated_subset = names[0] if names else ""
        epoch = kwargs.get("epoch", 1)
        if self._makes_batches_once(dataset, kwargs):
            kwargs["epoch"] = 1
        iterator = super().get_batch_iterator(*args, **kwargs)
        if kwargs.get("epoch", 1) != epoch:
            iterator.epoch = epoch
            dataset.set_epoch(epoch)
        recorder = self._uncertainty_recorder(
            kwargs.get("shard_id", 0), kwargs.get("num_shards", 1)
        )
        if recorder is not None:
            if self._is_interactive:
                recorder.expect_order(iterator.frozen_batches)
            else:
                recorder.expect(sum(len(batch) for batch in iterator.frozen_batches))
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

    def inference_step(
        self,
        generator: Any,
        models: list[Any],
        sample: Any,
        prefix_tokens: Any = None,
        constraints: Any = None,
    ) -> Any:
        """Decode a batch, and record it if ``--uncertainty-output`` asks for that."""
        recorder = self._uncertainty_recorder()
        try:
            hypotheses = super().inference_step(
                generator, models, sample, prefix_tokens, constraints
            )
        except Exception:
            if recorder is not None:
                recorder.abandon()
            raise
        if recorder is not None:
            recorder.record(sample, hypotheses, n_best=getattr(generator, "n_best", 1))
        return hypotheses

    def _uncertainty_recorder(
        self, shard_id: int = 0, num_shards: int = 1
    ) -> HypothesisRecorder | None:
        if self.cfg.uncertainty_output is None or self.teachers is not None:
            return None
        if self._recorder is None:
            path = self.cfg.uncertainty_output
            if num_shards > 1:
                path = f"{path}.shard{shard_id}"
            self._recorder = HypothesisRecorder(path, self, self._measures)
        return self._recorder


@dataclass(frozen=True)
class InitialOutputs:
    """What ``--student-init`` brings beside the weights of an ordinary model.

    Attributes:
        path: the checkpoint.
        head: as it says.
        weights: of the outputs, by their names in the checkpoint.
    """

    path: str
    head: StudentHead
    weights: dict[str, Any]


def _described(head: StudentHead) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in sorted(head.settings.items()))
    return f"a student of kind {head.kind}" + (f" ({settings})" if settings else "")


def sibling_options(cfg: Any, predictive: str | None) -> Any:
    """Return a task's options with another ``--predictive``."""
    options = copy.copy(cfg)
    options.predictive = predictive
    return options


def attach_head(model: BaseFairseqModel, head: StudentHead | None) -> None:
    """Give a model its head; what asks the model for log-probabilities then gets the predictive's.

    That covers everything of fairseq that decodes or scores, whichever task runs it. A base
    predictive is the softmax that the model computes anyway.
    """
    model.student_head = head
    if head is not None and student_outputs(model) is not None:
        model.get_normalized_probs = _refuse(head)
        return
    if head is None or head.predictive == "base":
        return

    def get_normalized_probs(net_output: Any, log_probs: bool, sample: Any = None) -> Any:
        values = head.log_probs(net_output[0])
        return values if log_probs else values.exp()

    model.get_normalized_probs = get_normalized_probs


def _refuse(head: StudentHead) -> Callable[..., Any]:
    def get_normalized_probs(net_output: Any, log_probs: bool, sample: Any = None) -> Any:
        raise InputError(
            f"a student of kind {head.kind} predicts with more than one row of logits, and "
            "fairseq's own search and criteria read one; decode with --task "
            "ensemble_teacher_translation (or ensemble_teacher_speech_to_text), and validate with "
            "the criterion it was trained with"
        )

    return get_normalized_probs
