"""The steps of a recipe, in order: which command lines make up the eight stages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.common.progress import decoding_progress, training_progress
from recipes.common.recipe import Arguments, Recipe, data_files
from recipes.common.steps import Step
from seqdistill.errors import InputError


@dataclass(frozen=True)
class WorkFolder:
    """Where things are in a work folder."""

    root: Path

    @property
    def text(self) -> Path:
        """Text, one sentence a line: ``<set>.<language>``."""
        return self.root / "data" / "text"

    @property
    def pieces(self) -> Path:
        """The same in sentence pieces, with ``spm.model``."""
        return self.root / "data" / "pieces"

    @property
    def binarised(self) -> Path:
        """What fairseq reads; every set is a ``--gen-subset``."""
        return self.root / "data" / "binarised"

    @property
    def recipe(self) -> Path:
        """The recipe as it was run: scale, settings and all."""
        return self.root / "recipe.json"

    @property
    def results(self) -> Path:
        """All numbers."""
        return self.root / "results.json"

    @property
    def table(self) -> Path:
        """The numbers as Markdown."""
        return self.root / "results.md"

    @property
    def gradients(self) -> Path:
        """The losses' gradients by the rank of a class."""
        return self.root / "gradients.json"

    @property
    def manifest(self) -> Path:
        """What the report shows, for ``seqdistill report``."""
        return self.root / "report.json"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.root / "report.html"

    def trained(self, kind: str, name: str) -> Path:
        """The checkpoint of a ``teachers`` or ``students`` training."""
        return self.root / kind / name / "checkpoint_best.pt"

    def targets(self, subset: str) -> Path:
        """The target store of ``train`` or ``valid``."""
        return self.root / "targets" / subset

    def decoded(self, system: str, name: str) -> Path:
        """Hypotheses of a system on a set."""
        return self.root / "decode" / system / f"{name}.jsonl"

    def forced(self, system: str, name: str = "test") -> Path:
        """The references of the test or validation set as scored by a system."""
        return self.root / "forced" / system / f"{name}.jsonl"


def make_plan(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Return every step of a recipe; a step comes after those whose output it reads."""
    return [
        *data_steps(recipe, work),
        *teacher_steps(recipe, work),
        *target_steps(recipe, work),
        *student_steps(recipe, work),
        *decode_steps(recipe, work),
        *force_steps(recipe, work),
        *gradient_steps(recipe, work),
        *result_steps(recipe, work),
    ]


def data_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 1: text, pieces, binarised sets."""
    source, target = recipe.languages
    folder = Path("recipes") / recipe.name
    given = recipe.given
    sets = ("train", "valid", "test", *recipe.data.ood)
    text = Step(
        "text",
        1,
        (
            "python", "-m", f"recipes.{recipe.name}.data", "--source-lang", source,
            "--target-lang", target, "--output", str(work.text),
            "--options", json.dumps(recipe.data.options),
        ),
        (folder / "*.py", Path("recipes/common/text.py"), *data_files(recipe)),
        tuple(work.text / f"{name}.{source}" for name in sets),
        work.text,
    )  # fmt: skip
    command = ["python", "-m", "recipes.common.pieces", "--text", str(work.text)]
    command += ["--output", str(work.pieces), "--languages", source, target]
    if given is not None:
        command += ["--model", given.model]
    else:
        cut = recipe.data.pieces
        command += ["--size", str(cut.size), "--character-coverage", str(cut.character_coverage)]
    pieces = Step(
        "pieces",
        1,
        tuple(command),
        (work.text / "*.*", *([Path(given.model)] if given else [])),
        tuple(work.pieces / path.name for path in text.outputs),
        work.pieces,
    )
    command = ["python", "-m", "recipes.common.binarise", "--pieces", str(work.pieces)]
    command += ["--output", str(work.binarised), "--languages", source, target]
    command += ["--dictionary", given.dictionary] if given else []
    binarise = Step(
        "binarise",
        1,
        tuple(command),
        (work.pieces / "*.*", *([Path(given.dictionary)] if given else [])),
        (
            *(work.binarised / f"dict.{language}.txt" for language in (source, target)),
            *(
                work.binarised / f"{path.stem}.{source}-{target}.{source}.bin"
                for path in pieces.outputs
            ),
        ),
        work.binarised,
    )
    return [text, pieces, binarise]


def teacher_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 2: independent trainings that differ in their seed; none when teachers are given."""
    if recipe.given is not None:
        return []
    return [
        training_step(
            f"teacher {number}",
            2,
            work,
            work.trained("teachers", name),
            {"seed": recipe.seed + number - 1} | recipe.training | recipe.teachers.arguments,
            (),
        )
        for number, name in enumerate(recipe.teacher_names, start=1)
    ]


def target_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 3: what the ensemble says about every token, stored once; none if it runs online."""
    if recipe.targets.mode == "online":
        return []
    source, target = recipe.languages
    teachers = teacher_paths(recipe, work)
    steps = []
    for subset in ("train", "valid"):
        arguments = dict(recipe.targets.arguments)
        if subset != "train":  # students are judged on real references, whatever they train on
            arguments.pop("targets", None)
        folder = work.targets(subset)
        name = f"targets of {subset}"
        command = (
            "seqdistill", "cache-targets", str(work.binarised), "-s", source, "-t", target,
            "--subset", subset, "--ensemble-paths", ":".join(map(str, teachers)),
            "--output", str(folder), *render(arguments, name),
        )  # fmt: skip
        reads = (work.binarised / f"{subset}.*", work.binarised / "dict.*", *teachers)
        outputs = (folder / "manifest.json",)
        steps.append(Step(name, 3, command, reads, outputs, folder, resumes=True))
    return steps


def student_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 4: one distillation a student, all from the same teachers."""
    init = recipe.students.init
    shared: Arguments = {
        "seed": recipe.seed,
        "task": "ensemble_teacher_translation",
        "student-init": None if init is None else str(model_path(recipe, work, init)),
    }
    data = work.binarised
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
    work: WorkFolder,
    checkpoint: Path,
    arguments: Arguments,
    inputs: Sequence[Path],
    data: Path | None = None,
) -> Step:
    """Return a training that resumes from its last checkpoint."""
    arguments = {
        **arguments,
        "save-dir": str(checkpoint.parent),
        "no-epoch-checkpoints": True,
        "log-format": "json",
        "log-interval": arguments.get("log-interval", 20),
    }
    command = ("seqdistill-fairseq-train", str(data or work.binarised), *render(arguments, name))
    reads = (work.binarised / "train.*", work.binarised / "valid.*", work.binarised / "dict.*")
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
    second = model_paths_of_reference(recipe, work) if is_compared else []
    arguments: Arguments = {
        "path": ":".join(str(path) for path in paths),
        "gen-subset": name,
        "remove-bpe": "sentencepiece",
        "predictive": recipe.systems[system].predictive,
        **(_scoring(recipe) if forced else recipe.decode.search),
        **(_against_reference(recipe, second) if second else {}),
        "uncertainty-output": str(output),
        # The log would otherwise repeat every hypothesis that the JSONL holds.
        "quiet": True,
    }
    command = ("seqdistill-fairseq-generate", str(work.binarised), *render(arguments, step_name))
    reads = (work.binarised / f"{name}.*", work.binarised / "dict.*", *paths, *second)
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


def model_paths_of_reference(recipe: Recipe, work: WorkFolder) -> list[Path]:
    """Checkpoints of the system that the others are compared with."""
    return [model_path(recipe, work, model) for model in recipe.models_of(recipe.reference)]


def gradient_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 7, where it is wanted: the losses' gradients on a sample of the validation set."""
    wanted = recipe.gradients
    if wanted is None:
        return []
    source, target = recipe.languages
    teachers = teacher_paths(recipe, work)
    models = {model_path(recipe, work, name): label for name, label in wanted.at.items()}
    command = (
        "seqdistill", "gradients", str(work.binarised), "-s", source, "-t", target,
        "--subset", "valid", "--ensemble-paths", ":".join(map(str, teachers)),
        *(word for path, label in models.items() for word in ("--student", f"{label}={path}")),
        "--max-sentences", str(wanted.sentences),
        "--bootstrap", str(recipe.assess.resamples), "--seed", str(recipe.assess.seed),
        "--output", str(work.gradients), "--overwrite",
    )  # fmt: skip
    reads = (work.binarised / "valid.*", work.binarised / "dict.*", *teachers, *models)
    return [Step("gradients", 7, command, reads, (work.gradients,))]


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


def teacher_paths(recipe: Recipe, work: WorkFolder) -> tuple[Path, ...]:
    """Checkpoints of all teachers."""
    return tuple(model_path(recipe, work, name) for name in recipe.teacher_names)


def model_path(recipe: Recipe, work: WorkFolder, name: str) -> Path:
    """The checkpoint of a teacher or student, by name."""
    if name in recipe.students.each:
        return work.trained("students", name)
    if recipe.given is not None:
        return Path(recipe.given.checkpoints[recipe.teacher_names.index(name)])
    return work.trained("teachers", name)


def render(arguments: Arguments, step_name: str) -> list[str]:
    """Turn options into command-line words: true is a bare flag, false and null leave it away.

    Example:
        >>> render({"beam": 5, "quiet": True, "user": None, "lr": [0.1, 0.2]}, "decode")
        ['--beam', '5', '--quiet', '--lr', '0.1', '0.2']
    """
    words = []
    for name, value in arguments.items():
        if name.startswith("-"):
            raise InputError(f"{step_name}: write the option {name} without its dashes")
        if isinstance(value, dict):
            raise InputError(f"{step_name}: the option {name} cannot be a mapping, got {value!r}")
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words += [str(item) for item in (value if isinstance(value, list) else [value])]
    return words
