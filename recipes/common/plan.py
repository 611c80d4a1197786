"""The steps of a recipe, in order: which command lines make up the eight stages.

What text and speech have in common is here; what is of one kind only, in a module each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recipes.common import plan_speech, plan_text
from recipes.common.command import render
from recipes.common.progress import decoding_progress
from recipes.common.recipe import RANDOM, Arguments, Recipe, Stage
from recipes.common.steps import Step
from recipes.common.training import training_step
from recipes.common.work import WorkFolder, model_path, reference_paths, teacher_paths


class Kind(Protocol):
    """What a module for a kind of data says.

    Attributes:
        TEACHER, STUDENT, DECODING: options that its trainings and decodings need.
    """

    TEACHER: Arguments
    STUDENT: Arguments
    DECODING: Arguments

    def data_folder(self, work: WorkFolder) -> Path:
        """What fairseq is given."""

    def set_files(self, work: WorkFolder, *names: str) -> tuple[Path, ...]:
        """What is read of that folder when these sets are used."""

    def data_steps(self, recipe: Recipe, work: WorkFolder) -> list[Step]:
        """Stage 1."""

    def target_steps(self, recipe: Recipe, work: WorkFolder) -> list[Step]:
        """Stage 3."""

    def gradient_steps(self, recipe: Recipe, work: WorkFolder) -> list[Step]:
        """Of stage 7."""


KINDS: dict[str, Kind] = {"text": plan_text, "speech": plan_speech}
"""The values of ``data.kind``."""


def make_plan(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Return every step of a recipe; a step comes after those whose output it reads."""
    kind = KINDS[recipe.data.kind]
    return [
        *kind.data_steps(recipe, work),
        *teacher_steps(recipe, work),
        *kind.target_steps(recipe, work),
        *student_steps(recipe, work),
        *decode_steps(recipe, work),
        *force_steps(recipe, work),
        *kind.gradient_steps(recipe, work),
        *result_steps(recipe, work),
    ]


def teacher_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 2: independent trainings that differ in their seed; none when teachers are given."""
    if recipe.given is not None:
        return []
    kind = KINDS[recipe.data.kind]
    trainings = [
        training_step(
            f"teacher {number}",
            2,
            recipe.launch,
            kind.data_folder(work),
            work.trained("teachers", name),
            {"seed": recipe.seed + number - 1}
            | kind.TEACHER
            | recipe.training
            | recipe.teachers.arguments,
            kind.set_files(work, "train", "valid"),
            keep=recipe.teachers.average,
        )
        for number, name in enumerate(recipe.teacher_names, start=1)
    ]
    return [*trainings, *finish_steps(recipe, work, 2, "teachers", recipe.teacher_names)]


def finish_steps(
    recipe: Recipe, work: WorkFolder, stage: int, kind: str, names: Sequence[str]
) -> list[Step]:
    """Return what makes one ordinary checkpoint of each training, where training leaves none.

    The last checkpoints are averaged, or the shards of DeepSpeed's engine put together, or both.
    """
    average = recipe.teachers.average if kind == "teachers" else recipe.students.average
    if average is not None:
        return [average_step(work, stage, kind, name, average) for name in names]
    if recipe.launch.deepspeed is not None:
        return [consolidate_step(work, stage, kind, name) for name in names]
    return []


def average_step(work: WorkFolder, stage: int, kind: str, name: str, count: int) -> Step:
    """Return the averaging of a training's last checkpoints."""
    trained, averaged = work.trained(kind, name), work.averaged(kind, name)
    return Step(
        f"average {name}",
        stage,
        (
            "python", "-m", "recipes.common.average", str(trained.parent),
            "--last", str(count), "--output", str(averaged),
        ),
        (trained, trained.parent / "checkpoint[0-9]*.pt"),
        (averaged,),
    )  # fmt: skip


def consolidate_step(work: WorkFolder, stage: int, kind: str, name: str) -> Step:
    """Return what puts the shards of a training's best checkpoint together."""
    trained, whole = work.trained(kind, name), work.consolidated(kind, name)
    command = ("seqdistill", "consolidate", str(trained), "--output", str(whole), "--overwrite")
    return Step(f"consolidate {name}", stage, command, (trained,), (whole,))


def student_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 4: one distillation a student, in one part or several, all from the same teachers."""
    trainings = [
        stage_step(recipe, work, name, number)
        for name in recipe.students.each
        for number in range(len(recipe.stages_of(name)))
    ]
    return [*trainings, *finish_steps(recipe, work, 4, "students", list(recipe.students.each))]


def stage_step(recipe: Recipe, work: WorkFolder, name: str, number: int) -> Step:
    """Return one part of a student's training; the last leaves the student.

    Args:
        recipe: the recipe.
        work: where.
        name: of the student.
        number: of the part, from 0.
    """
    stages = recipe.stages_of(name)
    stage, student = stages[number], recipe.students.each[name]
    kind = KINDS[recipe.data.kind]
    given = stage_targets(recipe, work, stage)
    if number:
        start: Path | None = stage_checkpoint(work, name, number - 1, len(stages))
    else:
        init = recipe.students.init if student.init is None else student.init
        start = None if init in (None, RANDOM) else model_path(recipe, work, str(init))
    own: Arguments = {"student-init": None if start is None else str(start)}
    arguments = {"seed": recipe.seed, **kind.STUDENT} | own | given.arguments
    for more in (recipe.training, recipe.students.arguments, stage.arguments):
        arguments |= more
    is_last = number == len(stages) - 1
    return training_step(
        f"distil {name}" if is_last else f"distil {name} part {number + 1}",
        4,
        recipe.launch,
        given.data,
        stage_checkpoint(work, name, number, len(stages)),
        arguments,
        (
            *kind.set_files(work, "train", "valid"),
            *given.inputs,
            *(() if start is None else (start,)),
        ),
        keep=recipe.students.average if is_last else None,
    )


def stage_checkpoint(work: WorkFolder, name: str, number: int, count: int) -> Path:
    """Return the checkpoint that a part of a student's training leaves."""
    part = "" if number == count - 1 else f".part{number + 1}"
    return work.trained("students", name + part)


@dataclass(frozen=True)
class GivenTargets:
    """What a training learns from.

    Attributes:
        arguments: options of fairseq-train that say so.
        inputs: what it reads beside the data.
        data: the data folder.
    """

    arguments: Arguments
    inputs: tuple[Path, ...]
    data: Path


def stage_targets(recipe: Recipe, work: WorkFolder, stage: Stage) -> GivenTargets:
    """Return the targets and the data of a part of a student's training."""
    data = KINDS[recipe.data.kind].data_folder(work)
    outputs, subset, store = recipe.targets.arguments, "train", work.targets("train")
    if stage.transfer is not None:
        outputs = outputs | recipe.transfer[stage.transfer].arguments
        subset, store = recipe.subset_of(stage.transfer), work.transfer(stage.transfer)
    arguments: Arguments = {}
    inputs: tuple[Path, ...] = ()
    is_stored = stage.targets == "store" or stage.transfer is not None
    if is_stored and outputs.get("targets", "references") != "references":
        data = store / "data"  # the ensemble's own outputs
        inputs = (store / "manifest.json",)
    if subset != "train":
        arguments["train-subset"] = subset
    if stage.targets == "online":
        inputs += teacher_paths(recipe, work)
        arguments["ensemble-paths"] = ":".join(str(path) for path in teacher_paths(recipe, work))
    elif stage.targets == "store":
        stores = [store, work.targets("valid")]
        inputs = tuple(one / "manifest.json" for one in stores)
        arguments["target-store"] = ":".join(str(one) for one in stores)
    return GivenTargets(arguments, inputs, data)


def decode_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 5: every system on the test sets and on every out-of-domain set."""
    return [
        generate_step(f"decode {system} on {name}", 5, recipe, work, system, name)
        for system in recipe.systems
        for name in ("test", *recipe.data.tests, *recipe.data.ood)
    ]


def force_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 6: the references under every system: likelihood, calibration, fidelity.

    The reference system reads along the test set, so that the divergence from it is exact. The
    validation set is for the temperature that calibration is controlled by.
    """
    return [
        generate_step(step_name, 6, recipe, work, system, name, forced=True)
        for system in recipe.systems
        for step_name, name in (
            (f"force {system}", "test"),
            (f"force {system} on valid", "valid"),
        )
    ]


def generate_step(
    step_name: str,
    stage: int,
    recipe: Recipe,
    work: WorkFolder,
    system: str,
    name: str,
    *,
    forced: bool = False,
) -> Step:
    """Return a search over a set, or the scoring of its references."""
    paths = [model_path(recipe, work, model) for model in recipe.models_of(system)]
    output = work.forced(system, name) if forced else work.decoded(system, name)
    is_compared = forced and name == "test" and system != recipe.reference
    second = reference_paths(recipe, work) if is_compared else []
    kind = KINDS[recipe.data.kind]
    arguments: Arguments = {
        "path": ":".join(str(path) for path in paths),
        "gen-subset": name,
        **kind.DECODING,
        "predictive": recipe.systems[system].predictive,
        **(_scoring(recipe) if forced else recipe.decode.search),
        **(_against_reference(recipe, second) if second else {}),
        **recipe.systems[system].arguments,
        "uncertainty-output": str(output),
        # The log would otherwise repeat every hypothesis that the JSONL holds.
        "quiet": True,
    }
    folder = kind.data_folder(work)
    command = ("seqdistill-fairseq-generate", str(folder), *render(arguments, step_name))
    reads = (*kind.set_files(work, name), *paths, *second)
    return Step(step_name, stage, command, reads, (output,), progress=decoding_progress(output))


def _scoring(recipe: Recipe) -> Arguments:
    """Options of the scoring of references."""
    return {"score-temperatures": "default"} | recipe.decode.force | {"score-reference": True}


def _against_reference(recipe: Recipe, paths: Sequence[Path]) -> Arguments:
    """Options that make a scoring compare its predictions with the reference system's, exactly."""
    return {
        "score-against": ":".join(str(path) for path in paths),
        # As the reference system itself is scored.
        "score-against-combination": recipe.decode.force.get("ensemble-combination"),
        "score-against-predictive": recipe.systems[recipe.reference].predictive,
    }


def result_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stages 7 and 8: numbers and the page that shows them."""
    hypotheses = tuple(
        path
        for system in recipe.systems
        for path in (
            work.forced(system),
            work.forced(system, "valid"),
            *(
                work.decoded(system, name)
                for name in ("test", *recipe.data.tests, *recipe.data.ood)
            ),
        )
    )
    assess = ("python", "-m", "recipes.common.assess", str(work.root))
    gradients = () if recipe.gradients is None else (work.gradients,)
    report = (
        "seqdistill", "report", "--manifest", str(work.manifest),
        "--output", str(work.report), "--overwrite",
        "--quality", recipe.assess.sentence_metric,
        "--bootstrap", str(recipe.assess.resamples), "--seed", str(recipe.assess.seed),
        *(word for path in gradients for word in ("--gradients", str(path))),
    )  # fmt: skip
    return [
        Step(
            "assess",
            7,
            assess,
            (work.recipe, *hypotheses),
            (work.results, work.table, work.manifest),
        ),
        Step("report", 8, report, (work.manifest, *gradients, *hypotheses), (work.report,)),
    ]
