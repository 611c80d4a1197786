"""Translation with an ensemble of teachers in training and with uncertainty in decoding."""

import json
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from torch import nn

from fairseq_plugins.noised_sources import TEACHER_SOURCES, NoisedSources, noise_of
from fairseq_plugins.stores import TargetStores
from fairseq_plugins.tasks.distillation import DistillationTask, sibling_options
from fairseq_plugins.tasks.options import DistillationOptions
from fairseq_plugins.teachers import check_dictionaries, load_translation_member
from seqdistill.errors import InputError


@dataclass
class EnsembleTeacherTranslationConfig(DistillationOptions, TranslationConfig):
    """Options of the task beside those of fairseq's ``translation``."""

    target_store: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "train from targets that `seqdistill cache-targets` stored, and load no "
            "teacher; a store for each data subset, separated by colons"
        },
    )
    source_dropout: float = field(
        default=0.0,
        metadata={"help": "training: chance that a piece of the source is left out"},
    )
    source_replacement: float = field(
        default=0.0,
        metadata={
            "help": "training: chance that a piece of the source is replaced by one drawn from the "
            "dictionary, as often as it occurs"
        },
    )
    source_noise_seed: int = field(
        default=1, metadata={"help": "of --source-dropout and --source-replacement"}
    )
    teacher_source: ChoiceEnum(list(TEACHER_SOURCES)) = field(  # type: ignore[valid-type]
        default="augmented",
        metadata={
            "help": "with noise on the sources: what teachers read in training, the student's "
            "noised source (augmented), one with less of that noise (weak), or the same without "
            "noise (clean)"
        },
    )
    weak_noise: float = field(
        default=0.25,
        metadata={"help": "with --teacher-source weak: the teachers' share of the noise"},
    )


@register_task("ensemble_teacher_translation", dataclass=EnsembleTeacherTranslationConfig)
class EnsembleTeacherTranslationTask(DistillationTask, TranslationTask):
    """fairseq's translation task with frozen teachers, student heads and uncertainty."""

    cfg: EnsembleTeacherTranslationConfig

    def __init__(self, cfg: Any, src_dict: Any, tgt_dict: Any) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        self.begin(cfg)

    def load_member(self, path: str) -> nn.Module:
        """Return one teacher, on the CPU; it must have been trained with this task's dictionaries.

        Raises:
            InputError: a bad checkpoint, or one of other dictionaries.
        """
        return load_translation_member(path, self.source_dictionary, self.target_dictionary)

    def check_member(self, path: str, state: dict[str, Any]) -> None:
        """Raise an ``InputError`` if a checkpoint was trained with other dictionaries."""
        check_dictionaries(path, state, self.source_dictionary, self.target_dictionary)

    def sibling(self, predictive: str | None = None) -> "EnsembleTeacherTranslationTask":
        """Return a task of the same dictionaries for other models."""
        options = sibling_options(self.cfg, predictive)
        return type(self)(options, self.source_dictionary, self.target_dictionary)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build a model; from a checkpoint it gets its head, in training its first weights."""
        return self.with_head(super().build_model(cfg, from_checkpoint), from_checkpoint)

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> FairseqCriterion:
        """Build the criterion; if it distils, load the teachers and settle the student's head."""
        criterion = self.with_teachers(super().build_criterion(cfg, from_checkpoint))
        self.freeze_parts()
        if self.student_head is not None and self.in_training and self.cfg.eval_bleu:
            # The stock task made its generator before the head was known.
            arguments = Namespace(**json.loads(self.cfg.eval_bleu_args))
            self.sequence_generator = self.build_generator([self.student], arguments)
        return criterion

    def load_dataset(self, split: str, *args: Any, **kwargs: Any) -> None:
        """Load a subset, and open its target store; in training its sources may get noise.

        Raises:
            InputError: the noise is impossible, or does not go with what else is asked for.
        """
        super().load_dataset(split, *args, **kwargs)
        noise = for_teachers = None
        if split == self.cfg.train_subset and self.in_training:
            noise, for_teachers = noise_of(self.cfg, self.source_dictionary)
        if self.stores is not None:
            self._open_store(self.stores, split)
        if noise is not None:  # after the store, which is of the sources as they are
            self.datasets[split] = NoisedSources(self.datasets[split], noise, for_teachers)

    def _open_store(self, stores: TargetStores, split: str) -> None:
        if len(utils.split_paths(self.cfg.data)) > 1 and split == self.cfg.train_subset:
            raise InputError(
                f"{self.cfg.data} are several folders, a part of the epochs each; a target store "
                "is of one folder. Join them, or train without --target-store"
            )
        stores.load(split, self, required=split == self.cfg.train_subset)

    def build_dataset_for_inference(
        self, src_tokens: Any, src_lengths: Any, constraints: Any = None
    ) -> Any:
        """Build the data set of one buffer of ``fairseq-interactive``."""
        self._is_interactive = True
        return super().build_dataset_for_inference(src_tokens, src_lengths, constraints)
