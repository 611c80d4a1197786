"""Checkpoints of speech by their paths: task and models, and errors that say what to mend."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils

from fairseq_plugins.checkpoints import explain, load_checkpoint
from fairseq_plugins.tasks.ensemble_teacher_speech_to_text import EnsembleTeacherSpeechToTextTask

#: fairseq's own limits of frames and pieces.
_LIMITS = {"max_source_positions": 6000, "max_target_positions": 1024}


@dataclass(frozen=True)
class LoadedSpeechModels:
    """Models of speech that run together.

    Attributes:
        task: of their data folder.
        models: in evaluation mode, on the device.
    """

    task: EnsembleTeacherSpeechToTextTask
    models: list[Any]


def load_speech_models(
    paths: Sequence[str],
    data: str | Path,
    config_yaml: str = "config.yaml",
    *,
    predictive: str | None = None,
    use_cuda: bool = False,
) -> LoadedSpeechModels:
    """Load checkpoints that read the features and write the pieces of one prepared folder.

    Args:
        paths: the checkpoints.
        data: the folder of ``seqdistill prepare-speech``.
        config_yaml: name of the configuration in it.
        predictive: overrides what a Dirichlet student decodes with, ``base`` or ``mean``.
        use_cuda: move the models to the GPU.

    Raises:
        InputError: a file is missing or damaged, or a model does not fit the folder.
    """
    task = EnsembleTeacherSpeechToTextTask.setup_task(
        Namespace(data=str(data), config_yaml=config_yaml, predictive=predictive, **_LIMITS)
    )
    for path in paths:
        task.check_member(path, load_checkpoint(path))
    try:
        models, _ = checkpoint_utils.load_model_ensemble(list(paths), task=task)
    except Exception as error:
        raise explain(error, " or ".join(map(str, paths))) from error
    for model in models:
        model.eval()
        if use_cuda:
            model.cuda()
    return LoadedSpeechModels(task, models)
