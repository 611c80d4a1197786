"""Translation with an ensemble of teachers in training and with uncertainty in decoding."""

import json
import logging
import os
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from torch import Tensor

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.generation import (
    HypothesisRecorder,
    SecondSystem,
    build_uncertainty_generator,
    densities_for,
    load_second_system,
)
from fairseq_plugins.generation.ensemble import estimator_of
from fairseq_plugins.stores import TargetStores
from fairseq_plugins.teachers import DTYPES, TeacherEnsemble, find_members
from seqdistill.errors import InputError
from seqdistill.student import PREDICTIVES, StudentHead
from seqdistill.targets.sparse import SparseTarget
from seqdistill.uncertainty.measures import select_measures
from seqdistill.uncertainty.options import COMBINATIONS, UncertaintyOptions
from seqdistill.uncertainty.second_reading import read_temperatures

logger = logging.getLogger(__name__)


@dataclass
class EnsembleTeacherTranslationConfig(TranslationConfig):
    """Options of the task beside those of fairseq's ``translation``."""

    ensemble_paths: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={"help": "teachers' checkpoints, separated by colons, or a quoted glob"},
    )
    ensemble_dtype: ChoiceEnum(list(DTYPES)) = field(  # type: ignore[valid-type]
        default="float32",
        metadata={"help": "precision of the teachers' forward pass; statistics are float32"},
    )
    target_store: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "train from targets that `seqdistill cache-targets` stored, and load no "
            "teacher; a store for each data subset, separated by colons"
        },
    )
    student_init: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "start the student from this checkpoint, or from the member of this number "
            "(1 is the first of --ensemble-paths)"
        },
    )
    predictive: Optional[ChoiceEnum(list(PREDICTIVES))] = field(  # type: ignore[valid-type]  # noqa: UP045
        default=None,
        metadata={
            "help": "what a Dirichlet student predicts with: base, softmax of the logits, or mean, "
            "alpha/alpha_0. Saved in the checkpoint by training (base if not given) and read back "
            "by decoding, where giving it again overrides the checkpoint"
        },
    )
    uncertainty_output: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={"help": "write every hypothesis with its uncertainty to this JSONL file"},
    )
    uncertainty_measures: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "comma-separated measures to compute and write, as `seqdistill measures` lists "
            "them; all, default; saved in the checkpoint"
        },
    )
    ensemble_combination: ChoiceEnum(list(COMBINATIONS)) = field(  # type: ignore[valid-type]
        default="pe",
        metadata={
            "help": "how several models are decoded or scored: pe, product of expectations, or ep, "
            "expectation of products"
        },
    )
    dirichlet_samples: int = field(
        default=0,
        metadata={
            "help": "draw this many members from a Dirichlet student at every step, for its joint "
            "EP measures; 0 for none"
        },
    )
    dirichlet_seed: int = field(default=0, metadata={"help": "of --dirichlet-samples"})
    score_against: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "with --score-reference: checkpoints of a second system, separated by colons, "
            "that reads the same prefixes; KL(p_second||p) and whether both find the same piece "
            "the most probable are recorded at every token"
        },
    )
    score_against_combination: ChoiceEnum(list(COMBINATIONS)) = field(  # type: ignore[valid-type]
        default="pe", metadata={"help": "how the members of --score-against are combined"}
    )
    score_against_predictive: Optional[ChoiceEnum(list(PREDICTIVES))] = field(  # type: ignore[valid-type]  # noqa: UP045
        default=None,
        metadata={"help": "what --score-against decodes with, where it is a Dirichlet student"},
    )
    score_temperatures: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "with --score-reference: temperatures with commas between them, or default (17 "
            "from 0.5 to 2); what each would make of the predictions is recorded, for "
            "`seqdistill calibration --validation`"
        },
    )
    feature_density: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "decoding: a file of `seqdistill fit-features`; hypotheses get the Mahalanobis "
            "distances of their features"
        },
    )


@register_task("ensemble_teacher_translation", dataclass=EnsembleTeacherTranslationConfig)
class EnsembleTeacherTranslationTask(TranslationTask):
    """fairseq's translation task with frozen teachers, student heads and uncertainty.

    Training: a distillation criterion asks for :attr:`teachers`. How the student's logits are to
    be read (:class:`~seqdistill.student.StudentHead`) travels in the checkpoint as the task's
    state; decoding gives it back to each model as ``model.student_head``.
    """

    cfg: EnsembleTeacherTranslationConfig

    def __init__(self, cfg: Any, src_dict: Any, tgt_dict: Any) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        self.teachers: TeacherEnsemble | None = None
        self.stores: TargetStores | None = None
        self._validated_subset = ""
        self.student_head: StudentHead | None = None
        self._student: BaseFairseqModel | None = None
        self._head_of_next_model: StudentHead | None = None
        self._measures = select_measures(cfg.uncertainty_measures)
        self.bpe: Any = None
        self.tokenizer: Any = None
        self._recorder: HypothesisRecorder | None = None
        self._is_interactive = False

    # -- what travels in the checkpoint ----------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what fairseq saves as ``task_state``: the student's head."""
        return {"student_head": self.student_head.to_dict()} if self.student_head else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the head of the model that fairseq builds next from the same checkpoint."""
        saved = state_dict.get("student_head")
        self._head_of_next_model = StudentHead.from_dict(saved) if saved else None

    # -- training ---------------------------------------------------------------------------

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build a model; from a checkpoint it gets its head, in training its first weights."""
        head, self._head_of_next_model = self._head_of_next_model, None
        model = super().build_model(cfg, from_checkpoint)
        if from_checkpoint:
            attach_head(model, self._override(head))
            if head is not None:
                self._measures = self._measures or head.measures
        else:
            self._student = model
            if self.cfg.student_init:
                self._initialise(model, self.cfg.student_init)
        return model

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> FairseqCriterion:
        """Build the criterion; if it distils, load the teachers and settle the student's head."""
        criterion = super().build_criterion(cfg, from_checkpoint)
        if not getattr(criterion, "needs_teachers", False):
            return criterion
        self.student_head = criterion.student_head(
            predictive=self.cfg.predictive or "base",
            measures=self._measures,
        )
        if self.cfg.target_store:
            self.stores = criterion.target_stores(self.cfg.target_store)
        else:
            self.teachers = TeacherEnsemble(
                find_members(self.cfg.ensemble_paths),
                self.source_dictionary,
                self.target_dictionary,
                self.cfg.ensemble_dtype,
            )
        if self._student is not None:
            attach_head(self._student, self.student_head)
            if self.cfg.eval_bleu:
                # The stock task made its generator before the head was known.
                arguments = Namespace(**json.loads(self.cfg.eval_bleu_args))
                self.sequence_generator = self.build_generator([self._student], arguments)
        return criterion

    def stored_targets(
        self, sample: dict[str, Any], token_mask: Tensor, training: bool
    ) -> SparseTarget | None:
        """Return the stored targets of a batch's counted tokens; None if there are none."""
        if self.stores is None:
            return None
        stored = self.stores.of(self.cfg.train_subset if training else self._validated_subset)
        return None if stored is None else stored.targets(sample, token_mask)

    def load_dataset(self, split: str, *args: Any, **kwargs: Any) -> None:
        """Load a subset, and open its target store."""
        super().load_dataset(split, *args, **kwargs)
        if self.stores is None:
            return
        if len(utils.split_paths(self.cfg.data)) > 1 and split == self.cfg.train_subset:
            raise InputError(
                f"{self.cfg.data} are several folders, a part of the epochs each; a target store "
                "is of one folder. Join them, or train without --target-store"
            )
        self.stores.load(split, self, required=split == self.cfg.train_subset)

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

    def _initialise(self, model: BaseFairseqModel, student_init: str) -> None:
        path = student_init
        if student_init.isdecimal():
            members = find_members(self.cfg.ensemble_paths)
            if not 1 <= int(student_init) <= len(members):
                raise InputError(
                    f"--student-init {student_init}: expected a path or a member from 1 to "
                    f"{len(members)}"
                )
            path = members[int(student_init) - 1]
        weights = load_checkpoint(path)["model"]
        model.upgrade_state_dict(weights)
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"--student-init {path}: its weights do not fit the student's architecture; use "
                f"the same --arch and sizes, or leave --student-init away ({error})"
            ) from error
        logger.info(f"student initialised from {path}")

    # -- decoding ---------------------------------------------------------------------------

    def _override(self, head: StudentHead | None) -> StudentHead | None:
        if self.cfg.predictive is None:
            return head
        if head is None or head.kind != "dirichlet":
            if self.cfg.predictive == "base":
                return head
            raise InputError(
                "--predictive mean needs a Dirichlet student; this checkpoint is an ordinary model"
            )
        return StudentHead(head.kind, head.offset, str(self.cfg.predictive), head.measures)

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
            return super().build_generator(
                models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn
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

    def build_dataset_for_inference(
        self, src_tokens: Any, src_lengths: Any, constraints: Any = None
    ) -> Any:
        """Build the data set of one buffer of ``fairseq-interactive``."""
        self._is_interactive = True
        return super().build_dataset_for_inference(src_tokens, src_lengths, constraints)

    def get_batch_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """Return fairseq's iterator; the recorder learns from it how many sentences come.

        Outside training every batch size is allowed: fairseq drops the last batch where it is not
        a multiple of ``--required-batch-size-multiple`` (8 by default), so up to 7 sentences of a
        validation or test set would be missing from every number, without a word.
        """
        dataset = args[0] if args else kwargs["dataset"]
        if dataset is not self.datasets.get(self.cfg.train_subset):
            kwargs["required_batch_size_multiple"] = 1
            names = [name for name, other in self.datasets.items() if other is dataset]
            self._validated_subset = names[0] if names else ""
        iterator = super().get_batch_iterator(*args, **kwargs)
        recorder = self._uncertainty_recorder(
            kwargs.get("shard_id", 0), kwargs.get("num_shards", 1)
        )
        if recorder is not None:
            if self._is_interactive:
                recorder.expect_order(iterator.frozen_batches)
            else:
                recorder.expect(sum(len(batch) for batch in iterator.frozen_batches))
        return iterator

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


def attach_head(model: BaseFairseqModel, head: StudentHead | None) -> None:
    """Give a model its head; what asks the model for log-probabilities then gets the predictive's.

    That covers everything of fairseq that decodes or scores, whichever task runs it. A base
    predictive is the softmax that the model computes anyway.
    """
    model.student_head = head
    if head is None or head.predictive == "base":
        return

    def get_normalized_probs(net_output: Any, log_probs: bool, sample: Any = None) -> Any:
        values = head.log_probs(net_output[0])
        return values if log_probs else values.exp()

    model.get_normalized_probs = get_normalized_probs
