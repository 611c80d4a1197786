"""The teacher ensemble of a training: frozen fairseq models that stream through the statistics."""

import glob
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from torch import Tensor, nn

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.features import gives_features, token_features, token_logits
from fairseq_plugins.outputs import refuse_outputs
from seqdistill.errors import InputError
from seqdistill.kernels import MemberLogits, MemberProjections
from seqdistill.teachers import EnsembleStatistics, StatisticsAccumulator
from seqdistill.teachers.offload import OffloadedModels

logger = logging.getLogger(__name__)

_SHARED = "student and teachers must share one vocabulary"

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def find_members(ensemble_paths: str | None, least: int = 2) -> list[str]:
    """Return the checkpoints that ``--ensemble-paths`` names.

    Args:
        ensemble_paths: paths separated by colons; each may be a glob, whose files are sorted.
        least: members that must be there; 1 where a mean is all that is distilled.

    Raises:
        InputError: nothing was given, a pattern matches nothing, or there are too few members.
    """
    members = expand_paths(ensemble_paths, "--ensemble-paths")
    if len(members) < least:
        raise InputError(
            f"--ensemble-paths names 1 member ({members[0]}); an ensemble needs at least 2, one "
            "model has no disagreement to distil (its mean alone is distilled by mean_kl or kdgan)"
        )
    return members


def expand_paths(paths: str | None, option: str) -> list[str]:
    """Return the checkpoints that an option names, one or more.

    Args:
        paths: separated by colons; each may be a glob, whose files are sorted.
        option: for messages.

    Raises:
        InputError: nothing was given, or a pattern matches nothing.
    """
    patterns = [part for part in (paths or "").split(os.pathsep) if part]
    if not patterns:
        raise InputError(
            f"{option} is empty; give the teachers' checkpoints, separated by colons, or a quoted "
            f"glob such as {option} 'teachers/*.pt'"
        )
    members: list[str] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not found:
            raise InputError(f"{option}: nothing matches {pattern!r}")
        members += found
    return members


class TeacherEnsemble:
    """M frozen models in eval mode, run one after another on the batch of a training.

    Args:
        paths: the members' checkpoints, at least two.
        load: makes a model of a path; it refuses one that does not fit the data of the training
            (``task.load_member``).
        dtype: ``float32``, ``float16`` or ``bfloat16``; log-probabilities are float32 always.
        offload: keep the members in the host's memory, all but their output projections; on the
            device there are two of them at a time, the one at work and the next.

    Raises:
        InputError: a checkpoint is bad or does not fit the data.
    """

    def __init__(
        self,
        paths: Sequence[str],
        load: Callable[[str], nn.Module],
        dtype: str = "float32",
        offload: bool = False,
    ) -> None:
        self._offload = offload
        self._offloaded: OffloadedModels | None = None
        self.paths = list(paths)
        self.models: list[nn.Module] = []
        for path in self.paths:
            self.models.append(frozen(load(path), dtype))
            logger.info(f"teacher {len(self.models)}: {path}")

    @torch.no_grad()
    def members(
        self, net_input: dict[str, Any], token_mask: Tensor, temperature: float = 1.0
    ) -> MemberProjections | MemberLogits:
        """Return what the fused loss streams: features and projections where all members give them.

        Args:
            net_input: fairseq's, on the device of the training; the members follow it there.
            token_mask: (B, T) True where a token counts, N of them.
            temperature: of the teachers.
        """
        models = self._running(token_mask.device)
        if all(map(gives_features, self.models)):
            # What decoders return beside features holds every layer's output, for each member.
            given = [
                replace(token_features(model, net_input, token_mask), extra=None)
                for model in models
            ]
            return MemberProjections(
                [one.features for one in given],
                [one.weight for one in given],
                [one.bias for one in given],
                temperature,
                self.paths,
            )
        logits = [token_logits(model, net_input, token_mask) for model in models]
        return MemberLogits(logits, temperature, self.paths)

    @torch.no_grad()
    def statistics(
        self, net_input: dict[str, Any], token_mask: Tensor, temperature: float = 1.0
    ) -> EnsembleStatistics:
        """Return the statistics of the tokens that count, members run one after another.

        Args:
            net_input: as in :meth:`members`.
            token_mask: (B, T) True where a token counts, N of them.
            temperature: of the teachers.

        Returns:
            Statistics of shape (N, V) and (N).

        Raises:
            InputError: a member gave NaN (it is named).
        """
        accumulator = StatisticsAccumulator(temperature)
        model: Any
        for path, model in zip(self.paths, self._running(token_mask.device), strict=True):
            logits = token_logits(model, net_input, token_mask)
            accumulator.add(
                model.get_normalized_probs((logits.float(), None), log_probs=True), path
            )
        return accumulator.statistics(least=1)  # how many there must be was seen to before

    def _running(self, device: torch.device) -> Iterable[nn.Module]:
        """Give each model when it is on the device; it may be used until the next is asked for."""
        if self._offload:
            if self._offloaded is None:
                kept = [projection_tensors(model) for model in self.models]
                self._offloaded = OffloadedModels(self.models, kept, device)
            return self._offloaded
        for model in self.models:
            if next(model.parameters()).device != device:
                model.to(device)
        return self.models


def frozen(model: nn.Module, dtype: str) -> nn.Module:
    """Return a model as a teacher is: without gradients, in eval mode, of one of ``DTYPES``."""
    return model.requires_grad_(False).eval().to(DTYPES[dtype])


def projection_tensors(model: Any) -> list[Tensor]:
    """Return what the fused loss reads of a member by itself: weight and bias of its projection."""
    if not gives_features(model):
        return []
    projection = model.decoder.output_projection
    return [tensor for tensor in (projection.weight, projection.bias) if tensor is not None]


def translation_loader(source: Dictionary, target: Dictionary) -> Callable[[str], nn.Module]:
    """Return what loads teachers of translation for the given dictionaries."""
    return lambda path: load_translation_member(path, source, target)


def load_translation_member(path: str, source: Dictionary, target: Dictionary) -> nn.Module:
    """Load one model of translation for the given dictionaries, on the CPU.

    Raises:
        InputError: a bad checkpoint, or one that was trained with other dictionaries.
    """
    state = load_checkpoint(path)
    check_dictionaries(path, state, source, target)
    refuse_outputs(path, state)
    # A task of the stock class: it builds the model and keeps nothing of the checkpoint's state.
    task = TranslationTask(TranslationConfig(), source, target)
    state.pop("task_state", None)
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([path], task=task, state=state)
    return models[0]


def check_dictionaries(
    path: str, state: dict[str, Any], source: Dictionary, target: Dictionary
) -> None:
    """Raise an :class:`InputError` if a checkpoint was trained with other dictionaries.

    The sizes are compared always; the entries where the checkpoint's dictionaries can be found,
    beside it or in the data folder that its configuration names.
    """
    for side, dictionary in (("encoder", source), ("decoder", target)):
        hint = "preprocess the data with the teachers' dictionaries (--srcdict, --tgtdict)"
        check_vocabulary(path, state, side, dictionary, hint)
    for side, dictionary in (("source", source), ("target", target)):
        language = saved_setting(state, f"{side}_lang")
        if language:
            compare_dictionaries(path, state, f"dict.{language}.txt", dictionary, side)


def check_vocabulary(
    path: str,
    state: dict[str, Any],
    side: str,
    dictionary: Dictionary,
    hint: str,
    why: str = _SHARED,
) -> None:
    """Raise an :class:`InputError` if a side of a checkpoint has not the size of a dictionary.

    Args:
        path: the checkpoint's.
        state: the checkpoint.
        side: ``encoder`` or ``decoder``; one without embeddings is not looked at.
        dictionary: the data's.
        hint: what to do.
        why: what the vocabulary has to be like.
    """
    weight = state["model"].get(f"{side}.embed_tokens.weight")
    if weight is not None and weight.shape[0] != len(dictionary):
        raise InputError(
            f"{path}: its {side} has {weight.shape[0]} vocabulary entries, the data's "
            f"dictionary {len(dictionary)}; {why}, so {hint}"
        )


def compare_dictionaries(
    path: str,
    state: dict[str, Any],
    name: str,
    dictionary: Dictionary,
    side: str,
    why: str = _SHARED,
) -> None:
    """Raise an :class:`InputError` if a checkpoint's dictionary is found and is another.

    Args:
        path: the checkpoint's; the dictionary is looked for beside it, then in its data folder.
        state: the checkpoint.
        name: the dictionary's file.
        dictionary: the data's.
        side: ``source`` or ``target``, for the message.
        why: what the dictionaries have to be like.
    """
    saved_data = str(saved_setting(state, "data") or "").split(os.pathsep)[0]
    for folder in (Path(path).parent, Path(saved_data or ".")):
        if (folder / name).is_file():
            _compare(path, folder / name, dictionary, side, why)
            return


def saved_setting(state: dict[str, Any], name: str) -> Any:
    """Return a setting of the task that a checkpoint was trained with; None if there is none."""
    config = state["cfg"]["task"] if state.get("cfg") is not None else vars(state["args"])
    return config.get(name) if hasattr(config, "get") else getattr(config, name, None)


def _compare(path: str, candidate: Path, dictionary: Dictionary, side: str, why: str) -> None:
    other = Dictionary.load(str(candidate))
    if other.symbols == dictionary.symbols:
        return
    pairs = enumerate(zip(other.symbols, dictionary.symbols, strict=False))
    where = next((i for i, (a, b) in pairs if a != b), min(len(other), len(dictionary)))
    mine = dictionary.symbols[where] if where < len(dictionary) else "nothing"
    theirs = other.symbols[where] if where < len(other) else "nothing"
    raise InputError(
        f"{path}: its {side} dictionary ({candidate}) differs from the data's at entry {where}: "
        f"{theirs!r} there, {mine!r} here; {why}"
    )
