"""The steps of a recipe, in order: which command lines make up the eight stages.

What text and speech have in common is here; what is of one kind only, in a module each.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from recipes.common import plan_speech, plan_text
from recipes.common.command import render
from recipes.common.progress import decoding_progress, training_progress
from recipes.common.recipe import Arguments, Recipe
from recipes.common.steps import Step
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
    kind, average = KINDS[recipe.data.kind], recipe.teachers.average
    trainings = [
        training_step(
            f"teacher {number}",
            2,
            recipe,
            work,
            work.trained("teachers", name),
            {"seed": recipe.seed + number - 1}
            | kind.TEACHER
            | recipe.training
            | recipe.teachers.arguments,
            (),
            keep=average,
        )
        for number, name in enumerate(recipe.teacher_names, start=1)
    ]
    if average is None:
        return trainings
    return [*trainings, *(average_step(work, name, average) for name in recipe.teacher_names)]


def average_step(work: WorkFolder, name: str, count: int) -> Step:
    """Return the averaging of a teacher's last checkpoints."""
    trained, averaged = work.trained("teachers", name), work.averaged(name)
    return Step(
        f"average {name}",
        2,
        (
            "python", "-m", "recipes.common.average", str(trained.parent),
            "--last", str(count), "--output", str(averaged),
        ),
        (trained, trained.parent / "checkpoint[0-9]*.pt"),
        (averaged,),
    )  # fmt: skip


def student_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 4: one distillation a student, all from the same teachers."""
    init = recipe.students.init
    kind = KINDS[recipe.data.kind]
    shared: Arguments = {
        "seed": recipe.seed,
        **kind.STUDENT,
        "student-init": None if init is None else str(model_path(recipe, work, init)),
    }
    data = kind.data_folder(work)
    if recipe.targets.mode == "online":
        inputs = teacher_paths(recipe, work)
        shared["ensemble-paths"] = ":".join(str(path) for path in inputs)
    else:
        stores = [work.targets(subset) for subset in ("train", "valid")]
        inputs = tuple(store / "manifest.json" for store in stores)
        shared["target-store"] = ":".join(str(store) for store in stores)
        if recipe.targets.arguments.get("targets", "references") != "references":
            data = stores[0] / "data"  # the ensemble's own outputs
    if init is not None:
        inputs = (*inputs, model_path(recipe, work, init))
    return [
        training_step(
            f"distil {name}",
            4,
            recipe,
            work,
            work.trained("students", name),
            shared | recipe.training | recipe.students.arguments | student.arguments,
            inputs,
            data,
        )
        for name, student in recipe.students.each.items()
    ]


def training_step(
    name: str,
    stage: int,
    recipe: Recipe,
    work: WorkFolder,
    checkpoint: Path,
    arguments: Arguments,
    inputs: Sequence[Path],
    data: Path | None = None,
    keep: int | None = None,
) -> Step:
    """Return a training that resumes from its last checkpoint; ``keep``: epochs' that are kept."""
    kept: Arguments = {"no-epoch-checkpoints": True} if keep is None else {"keep-last-epochs": keep}
    arguments = {
        **arguments,
        "save-dir": str(checkpoint.parent),
        **kept,
        "log-format": "json",
        "log-interval": arguments.get("log-interval", 20),
    }
    kind = KINDS[recipe.data.kind]
    folder = kind.data_folder(work) if data is None else data
    command = ("seqdistill-fairseq-train", str(folder), *render(arguments, name))
    reads = kind.set_files(work, "train", "valid")
    progress = training_progress(arguments.get("max-update"))
    return Step(
        name,
        stage,
        command,
        (*reads, *inputs),
        (checkpoint,),
        checkpoint.parent,
        resumes=True,
        progress=progress,
    )


def decode_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 5: every system on the test set and on every out-of-domain set."""
    return [
        generate_step(f"decode {system} on {name}", 5, recipe, work, system, name)
        for system in recipe.systems
        for name in ("test", *recipe.data.ood)
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
            *(work.decoded(system, name) for name in ("test", *recipe.data.ood)),
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
