"""The teacher ensemble of a training: frozen fairseq models that stream through the statistics."""

import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from torch import Tensor, nn

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.features import gives_features, token_features, token_logits
from seqdistill.errors import InputError
from seqdistill.kernels import MemberLogits, MemberProjections
from seqdistill.teachers import EnsembleStatistics, StatisticsAccumulator

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def find_members(ensemble_paths: str | None) -> list[str]:
    """Return the checkpoints that ``--ensemble-paths`` names.

    Args:
        ensemble_paths: paths separated by colons; each may be a glob, whose files are sorted.

    Raises:
        InputError: nothing was given, a pattern matches nothing, or there is only one member.
    """
    patterns = [part for part in (ensemble_paths or "").split(os.pathsep) if part]
    if not patterns:
        raise InputError(
            "--ensemble-paths is empty; give the teachers' checkpoints, separated by colons, or "
            "a quoted glob such as --ensemble-paths 'teachers/*.pt'"
        )
    members: list[str] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not found:
            raise InputError(f"--ensemble-paths: nothing matches {pattern!r}")
        members += found
    if len(members) < 2:
        raise InputError(
            f"--ensemble-paths names 1 member ({members[0]}); an ensemble needs at least 2, one "
            "model has no disagreement to distil"
        )
    return members


class TeacherEnsemble:
    """M frozen models in eval mode, run one after another on the batch of a training.

    Args:
        paths: the members' checkpoints, at least two.
        source_dictionary: the training's; every member must have been trained with it.
        target_dictionary: likewise.
        dtype: ``float32``, ``float16`` or ``bfloat16``; log-probabilities are float32 always.

    Raises:
        InputError: a checkpoint is bad or does not fit the dictionaries.
    """

    def __init__(
        self,
        paths: Sequence[str],
        source_dictionary: Dictionary,
        target_dictionary: Dictionary,
        dtype: str = "float32",
    ) -> None:
        self.paths = list(paths)
        self.models: list[nn.Module] = []
        for path in self.paths:
            model = load_member(path, source_dictionary, target_dictionary)
            model.requires_grad_(False)
            self.models.append(model.eval().to(DTYPES[dtype]))
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
        models = self._on(token_mask.device)
        if all(map(gives_features, models)):
            given = [token_features(model, net_input, token_mask) for model in models]
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
        for path, model in zip(self.paths, self._on(token_mask.device), strict=True):
            logits = token_logits(model, net_input, token_mask)
            accumulator.add(
                model.get_normalized_probs((logits.float(), None), log_probs=True), path
            )
        return accumulator.statistics()

    def _on(self, device: torch.device) -> list[nn.Module]:
        for model in self.models:
            if next(model.parameters()).device != device:
                model.to(device)
        return self.models


def load_member(path: str, source: Dictionary, target: Dictionary) -> nn.Module:
    """Load one model for the given dictionaries, on the CPU.

    Raises:
        InputError: a bad checkpoint, or one that was trained with other dictionaries.
    """
    state = load_checkpoint(path)
    config = state["cfg"]["task"] if state.get("cfg") is not None else vars(state["args"])
    check_dictionaries(path, state, config, source, target)
    # A task of the stock class: it builds the model and keeps nothing of the checkpoint's state.
    task = TranslationTask(TranslationConfig(), source, target)
    state.pop("task_state", None)
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([path], task=task, state=state)
    return models[0]


def check_dictionaries(
    path: str, state: dict[str, Any], config: Any, source: Dictionary, target: Dictionary
) -> None:
    """Raise an :class:`InputError` if a checkpoint was trained with other dictionaries.

    The sizes are compared always; the entries where the checkpoint's dictionaries can be found,
    beside it or in the data folder that its configuration names.
    """
    for side, dictionary in (("encoder", source), ("decoder", target)):
        weight = state["model"].get(f"{side}.embed_tokens.weight")
        if weight is not None and weight.shape[0] != len(dictionary):
            raise InputError(
                f"{path}: its {side} has {weight.shape[0]} vocabulary entries, the data's "
                f"dictionary {len(dictionary)}; student and teachers must share one vocabulary, so "
                "preprocess the data with the teachers' dictionaries (--srcdict, --tgtdict)"
            )
    saved_data = str(_setting(config, "data") or "").split(os.pathsep)[0]
    for side, dictionary in (("source", source), ("target", target)):
        language = _setting(config, f"{side}_lang")
        for folder in (Path(path).parent, Path(saved_data or ".")):
            candidate = folder / f"dict.{language}.txt"
            if language and candidate.is_file():
                _compare(path, candidate, dictionary, side)
                break


def _setting(config: Any, name: str) -> Any:
    return config.get(name) if hasattr(config, "get") else getattr(config, name, None)


def _compare(path: str, candidate: Path, dictionary: Dictionary, side: str) -> None:
    other = Dictionary.load(str(candidate))
    if other.symbols == dictionary.symbols:
        return
    pairs = enumerate(zip(other.symbols, dictionary.symbols, strict=False))
    where = next((i for i, (a, b) in pairs if a != b), min(len(other), len(dictionary)))
    mine = dictionary.symbols[where] if where < len(dictionary) else "nothing"
    theirs = other.symbols[where] if where < len(other) else "nothing"
    raise InputError(
        f"{path}: its {side} dictionary ({candidate}) differs from the data's at entry {where}: "
        f"{theirs!r} there, {mine!r} here; student and teachers must share one vocabulary"
    )
