"""Speech recognition with an ensemble of teachers in training and uncertainty in decoding."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.criterions import FairseqCriterion
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import BaseFairseqModel
from fairseq.tasks import register_task
from fairseq.tasks.speech_to_text import SpeechToTextTask
from torch import nn

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.outputs import refuse_outputs
from fairseq_plugins.speech.dataset import (
    TEACHER_FEATURES,
    SpeechDataset,
    find_statistics,
    load_speech,
)
from fairseq_plugins.speech.members import check_speech_member
from fairseq_plugins.speech.models import adapt
from fairseq_plugins.tasks.distillation import DistillationTask, sibling_options
from fairseq_plugins.tasks.options import DistillationOptions
from seqdistill.errors import InputError
from seqdistill.speech.features import load_features
from seqdistill.speech.manifest import Utterance


@register_task("ensemble_teacher_speech_to_text")
class EnsembleTeacherSpeechToTextTask(DistillationTask, SpeechToTextTask):
    """fairseq's speech_to_text task with frozen teachers, student heads and uncertainty.

    Teachers read the features that the student reads, its augmentation included, unless
    ``--teacher-features clean`` says otherwise.
    """

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the options of the task: fairseq's, those of every task here, and its own."""
        SpeechToTextTask.add_args(parser)
        gen_parser_from_dataclass(parser, DistillationOptions())
        parser.add_argument(
            "--teacher-features",
            choices=TEACHER_FEATURES,
            default="augmented",
            help="what teachers read in training: the student's augmented features, or the same "
            "without augmentation",
        )

    @classmethod
    def setup_task(cls, args: Namespace, **kwargs: Any) -> "EnsembleTeacherSpeechToTextTask":
        """Set the task up.

        Raises:
            InputError: the data folder lacks something.
        """
        check_folder(args)
        task: EnsembleTeacherSpeechToTextTask = super().setup_task(args, **kwargs)
        return task

    def __init__(self, args: Namespace, tgt_dict: Any) -> None:
        super().__init__(args, tgt_dict)
        find_statistics(args.data, self.data_cfg)
        # Checkpoints of fairseq's own task have none of the options of this one.
        options = vars(DistillationOptions())
        defaults = {"teacher_features": "augmented", "train_subset": "train", "seed": 1}
        self.interactive_sources: list[str] = []  # in the order of their lines
        self.begin(Namespace(**{**options, **defaults, **vars(args)}))

    def load_member(self, path: str) -> nn.Module:
        """Return one teacher, on the CPU; it must read these features and write these pieces.

        Raises:
            InputError: a bad checkpoint, or one that does not fit the data.
        """
        state = load_checkpoint(path)
        self.check_member(path, state)
        refuse_outputs(path, state)
        state.pop("task_state", None)  # a teacher has no head
        models, _, _ = checkpoint_utils.load_model_ensemble_and_task(
            [path], task=self.sibling(), state=state
        )
        return models[0]

    def check_member(self, path: str, state: dict[str, Any]) -> None:
        """Raise an ``InputError`` if a checkpoint does not fit the data."""
        check_speech_member(path, state, self.data_cfg, self.tgt_dict)

    def sibling(
        self, predictive: str | None = None, data: str | None = None
    ) -> "EnsembleTeacherSpeechToTextTask":
        """Return a task of the same data, or of another folder, for other models."""
        options = sibling_options(self.cfg, predictive)
        if data is None:
            return type(self)(options, self.tgt_dict)
        options.data = data
        return type(self).setup_task(options)

    def build_model(self, args: Namespace, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build a model; from a checkpoint it gets its head, in training its first weights."""
        model = adapt(super().build_model(args, from_checkpoint), args)
        return self.with_head(model, from_checkpoint)

    def fit_weights(self, weights: dict[str, Any], model: BaseFairseqModel) -> dict[str, Any]:
        """Return the weights of ``--student-init``; CTC's projection is the student's own affair.

        It helps training and takes no part in decoding: a student without CTC leaves the teacher's
        away, one with CTC keeps its fresh one where the teacher has none.
        """
        prefix = "encoder.ctc_proj."
        own = {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}
        given = {k: v for k, v in weights.items() if k.startswith(prefix)}
        others = {k: v for k, v in weights.items() if not k.startswith(prefix)}
        return others | ((given or own) if own else {})

    def build_criterion(self, args: Any, from_checkpoint: bool = False) -> FairseqCriterion:
        """Build the criterion; if it distils, load the teachers and settle the student's head."""
        criterion = self.with_teachers(super().build_criterion(args))
        self.freeze_parts()
        return criterion

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> None:
        """Load a set of the data folder, or several with commas between their names.

        Raises:
            InputError: a manifest or a file of features is missing or wrong.
        """
        if self.multitask_tasks:
            raise InputError("--multitask-config-yaml: expected a single task, without it")
        is_train_split = split.startswith("train")
        self.datasets[split] = load_speech(
            self.args.data,
            self.data_cfg,
            split,
            is_train_split=is_train_split,
            seed=self.cfg.seed,
            with_clean=self.cfg.teacher_features == "clean",
            tgt_dict=self.tgt_dict,
            pre_tokenizer=self.build_tokenizer(self.args),
            bpe_tokenizer=self.build_bpe(self.args),
            speaker_to_id=self.speaker_to_id,
        )

    def build_generator(
        self,
        models: list[Any],
        args: Any,
        seq_gen_cls: Any = None,
        extra_gen_cls_kwargs: dict[str, Any] | None = None,
        prefix_allowed_tokens_fn: Any = None,
    ) -> Any:
        """Build a generator whose hypotheses carry uncertainty, tags of languages taken off."""
        if self.data_cfg.prepend_tgt_lang_tag and args.prefix_size != 1:
            raise InputError(
                "the data have a tag of the language before each text; decode with --prefix-size 1"
            )
        tags = {
            index for piece, index in self.tgt_dict.indices.items()
            if SpeechToTextDataset.is_lang_tag(piece)
        }  # fmt: skip
        extra = {"symbols_to_strip_from_output": tags, **(extra_gen_cls_kwargs or {})}
        last = getattr(args, "eos_token", None) or self.data_cfg.config.get("eos_token")
        if last:
            extra["eos"] = self.tgt_dict.index(last)
        return DistillationTask.build_generator(
            self, models, args, seq_gen_cls, extra, prefix_allowed_tokens_fn
        )

    def get_interactive_tokens_and_lengths(self, lines: list[str], encode_fn: Any) -> Any:
        """Return paths of audio (or places of features) as they are, and their frames.

        Raises:
            InputError: one is missing or unreadable.
        """
        cfg = self.data_cfg
        bins = cfg.input_feat_per_channel * cfg.input_channels
        return lines, [len(load_features(one, rate=cfg.sample_rate, bins=bins)) for one in lines]

    def build_dataset_for_inference(
        self, src_tokens: list[str], src_lengths: list[int], **kwargs: Any
    ) -> SpeechDataset:
        """Build the data set of one buffer of ``fairseq-interactive``: paths and frames."""
        self._is_interactive = True
        self.interactive_sources += src_tokens
        named = zip(src_tokens, src_lengths, strict=True)
        utterances = [Utterance(path, path, frames, None) for path, frames in named]
        return SpeechDataset(
            "interactive", False, self.data_cfg, src_tokens, utterances, seed=self.cfg.seed
        )


def check_folder(args: Namespace) -> None:
    """Raise an :class:`InputError` if a data folder lacks what every use of it needs."""
    folder = Path(args.data)
    config = folder / args.config_yaml
    if not config.is_file():
        raise InputError(
            f"{config}: no such file; expected a folder that seqdistill prepare-speech made, or "
            "--config-yaml NAME of the configuration in it"
        )
    dictionary = folder / S2TDataConfig(config).vocab_filename
    if not dictionary.is_file():
        raise InputError(f"{dictionary}: no such file, although {config} names it")
