"""Checkpoints by their paths: the task and the models, with errors that say what to mend."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils

from fairseq_plugins.checkpoints import explain
from fairseq_plugins.tasks.ensemble_teacher_translation import (
    EnsembleTeacherTranslationConfig,
    EnsembleTeacherTranslationTask,
)
from seqdistill.errors import InputError


@dataclass(frozen=True)
class LoadedModels:
    """Models that run together.

    Attributes:
        task: fairseq's, with the dictionaries.
        models: in evaluation mode, on the device.
    """

    task: EnsembleTeacherTranslationTask
    models: list[Any]


def load_models(
    paths: Sequence[str],
    data: str | Path,
    source_language: str,
    target_language: str,
    *,
    predictive: str | None = None,
    use_cuda: bool = False,
) -> LoadedModels:
    """Load checkpoints that read and write with the dictionaries of one data folder.

    Args:
        paths: the checkpoints.
        data: the folder with ``dict.SOURCE.txt`` and ``dict.TARGET.txt``.
        source_language: of the dictionary's name.
        target_language: likewise.
        predictive: overrides what a Dirichlet student decodes with, ``base`` or ``mean``.
        use_cuda: move the models to the GPU.

    Raises:
        InputError: a file is missing or damaged, or a model was trained with other dictionaries.
    """
    languages = (source_language, target_language)
    require_files(*paths, *(Path(data) / f"dict.{language}.txt" for language in languages))
    task = EnsembleTeacherTranslationTask.setup_task(
        EnsembleTeacherTranslationConfig(
            data=str(data),
            source_lang=source_language,
            target_lang=target_language,
            predictive=predictive,
        )
    )
    try:
        models, _ = checkpoint_utils.load_model_ensemble(list(paths), task=task)
    except Exception as error:
        raise _explain(error, " or ".join(map(str, paths)), data) from error
    for model in models:
        model.eval()
        if use_cuda:
            model.cuda()
    return LoadedModels(task, models)


def require_files(*paths: str | Path) -> None:
    """Raise an :class:`InputError` unless all paths are files."""
    for path in paths:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")


def _explain(error: Exception, paths: str, data: str | Path) -> Exception:
    if isinstance(error, RuntimeError) and "size mismatch" in str(error):
        return InputError(
            f"{paths}: trained with other dictionaries than those in {data}; give the folder of "
            f"the data that the model was trained on ({error})"
        )
    return explain(error, paths)
