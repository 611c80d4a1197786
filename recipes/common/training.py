"""A training as a step: ``seqdistill-fairseq-train`` with its options, as the recipe starts it."""

from collections.abc import Sequence
from pathlib import Path

from recipes.common.command import render
from recipes.common.progress import training_progress
from recipes.common.recipe import Arguments, Launch
from recipes.common.steps import Step


def training_step(
    name: str,
    stage: int,
    launch: Launch,
    data: Path,
    checkpoint: Path,
    arguments: Arguments,
    inputs: Sequence[Path],
    keep: int | None = None,
) -> Step:
    """Return a training that resumes from its last checkpoint.

    Args:
        name: of the step.
        stage: its number.
        launch: how it is started.
        data: the data folder.
        checkpoint: what it leaves.
        arguments: options of fairseq-train.
        inputs: what it reads.
        keep: checkpoints of so many last epochs are kept; None: of none.
    """
    kept: Arguments = {"no-epoch-checkpoints": True} if keep is None else {"keep-last-epochs": keep}
    arguments = {
        **arguments,
        "save-dir": str(checkpoint.parent),
        **kept,
        "log-format": "json",
        "log-interval": arguments.get("log-interval", 20),
    }
    if launch.deepspeed is not None:
        arguments["deepspeed"] = launch.deepspeed
        inputs = (*inputs, Path(launch.deepspeed))
    program = (*launch_words(launch), "seqdistill-fairseq-train")
    return Step(
        name,
        stage,
        (*program, str(data), *render(arguments, name)),
        tuple(inputs),
        (checkpoint,),
        checkpoint.parent,
        resumes=True,
        progress=training_progress(arguments.get("max-update")),
    )


def launch_words(launch: Launch) -> tuple[str, ...]:
    """Return what stands before the program of a training."""
    words = list(launch.launcher)
    if launch.processes is not None and not words:
        words = ["torchrun", "--standalone", "--nproc_per_node", str(launch.processes)]
        words.append("--no-python")
    variables = [f"{name}={value}" for name, value in launch.environment.items()]
    return (*(["env", *variables] if variables else []), *words)
