"""What is a speech recipe's own: its first stage; targets are never stored.

The task reads the folder that ``seqdistill prepare-speech`` writes. Its training features are
augmented anew in every epoch, so the teachers run beside every student's training.
"""

import json
from pathlib import Path

from recipes.common.command import render
from recipes.common.recipe import Arguments, Recipe, data_files
from recipes.common.steps import Step
from recipes.common.work import WorkFolder

CONFIG = "config.yaml"
"""How a prepared folder is read: its pieces, its features, and what is done to them."""

_TASK: Arguments = {"task": "ensemble_teacher_speech_to_text", "config-yaml": CONFIG}
TEACHER = _TASK
STUDENT = _TASK
DECODING = _TASK


def data_folder(work: WorkFolder) -> Path:
    """What fairseq is given."""
    return work.prepared


def set_files(work: WorkFolder, *names: str) -> tuple[Path, ...]:
    """What is read of that folder when these sets are used: manifests, features and pieces."""
    shared = (CONFIG, "dict.txt", "spm.model")
    return tuple(work.prepared / name for name in (*(f"{name}.*" for name in names), *shared))


def data_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 1: audio in LibriSpeech's layout, then pieces, manifests and features."""
    names = ("train", "valid", "test", *recipe.data.ood)
    folder, given = Path("recipes") / recipe.name, recipe.given
    audio = Step(
        "audio",
        1,
        (
            "python", "-m", f"recipes.{recipe.name}.data", "--output", str(work.audio),
            "--sets", *names, "--options", json.dumps(recipe.data.options),
        ),
        (folder / "*.py", Path("recipes/common/audio.py"), *data_files(recipe)),
        tuple(work.audio / f"{name}.json" for name in names),
        work.audio,
    )  # fmt: skip
    arguments: Arguments = dict(recipe.data.prepare)
    if given is not None:
        arguments |= {"piece-model": given.model, "dictionary": given.dictionary}
    command = (
        "seqdistill", "prepare-speech", str(work.prepared),
        *(word for name in names for word in ("--split", f"{name}={work.audio / name}")),
        *render(arguments, "prepare"),
    )  # fmt: skip
    prepare = Step(
        "prepare",
        1,
        command,
        (*audio.outputs, *_files_of(arguments)),
        tuple(
            work.prepared / name
            for name in (CONFIG, "dict.txt", "spm.model", *(f"{name}.tsv" for name in names))
        ),
        work.prepared,
        resumes=True,
    )
    return [audio, prepare]


def target_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 3: nothing; the recipe has been checked to have its targets online."""
    return []


def gradient_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Nothing of stage 7: ``seqdistill gradients`` reads text."""
    return []


def _files_of(arguments: Arguments) -> list[Path]:
    """The files that ``prepare-speech`` is pointed at, so that a change of them is seen."""
    given = (arguments.get(name) for name in ("piece-model", "dictionary", "specaugment"))
    return [Path(value) for value in given if value is not None and Path(value).suffix]
