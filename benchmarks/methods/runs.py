"""From methods to steps: every run is a recipe with one student, in one work folder for all."""

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.methods.method import Bench, Command, Method, Run, fill, updates_of
from recipes.common.checks import check
from recipes.common.config import unknown
from recipes.common.plan import KINDS, decode_steps, force_steps, make_plan
from recipes.common.recipe import Arguments, Recipe, Stage, Student, System, Transfer
from recipes.common.steps import Step
from recipes.common.work import WorkFolder, model_path, teacher_paths
from seqdistill.errors import InputError
from seqdistill.files import atomic_write


@dataclass(frozen=True)
class RunFolder:
    """Where the files of one run are, beside what the recipe's own folders hold."""

    root: Path

    @property
    def description(self) -> Path:
        """What the run is: its recipe, placeholders filled, and the names of its steps."""
        return self.root / "run.json"

    @property
    def results(self) -> Path:
        """The run's numbers and costs."""
        return self.root / "results.json"

    @property
    def samples(self) -> Path:
        """Those of its numbers that have intervals, over resampled sentences."""
        return self.root / "samples.npz"

    @property
    def own(self) -> Path:
        """What its commands write."""
        return self.root / "files"


@dataclass(frozen=True)
class PlannedRun:
    """A run with its steps.

    Attributes:
        run: which.
        recipe: the run as a recipe.
        steps: all of them, shared ones too, in order.
        stores: names of the steps that make its stored targets, which other runs share.
        training: names of the steps that its student takes.
    """

    run: Run
    recipe: Recipe
    steps: list[Step]
    stores: tuple[str, ...] = ()
    training: tuple[str, ...] = ()

    @property
    def decoding(self) -> tuple[str, ...]:
        """Names of its decodings, the scoring of references left out."""
        names = ("test", *self.recipe.data.tests, *self.recipe.data.ood)
        return tuple(f"decode {self.run.name} on {name}" for name in names)


def run_folder(work: WorkFolder, run: Run) -> RunFolder:
    """Return where the files of a run are."""
    return RunFolder(work.root / "runs" / run.name)


def shared_folder(work: WorkFolder, name: str) -> Path:
    """Return where a method's shared commands write."""
    return work.root / "runs" / name


def run_recipe(base: Recipe, bench: Bench, run: Run, work: WorkFolder) -> Recipe:
    """Return one run as a recipe: the base's data and teachers, one student, one system.

    Raises:
        InputError: a name or placeholder means nothing.
    """
    common = replace(base, gradients=None, published=[])
    reference = {base.reference: base.systems[base.reference]}
    if run.seed is None:
        if run.method not in base.systems:
            raise unknown("system", run.method, list(base.systems), "baselines")
        systems = reference | {run.method: base.systems[run.method]}
        return replace(common, systems=systems, students=replace(base.students, each={}))
    method = bench.methods[run.method]
    trained = run if method.student is None else Run(method.student, run.seed)
    student = bench.methods[trained.method]
    words = placeholders(base, bench, trained, work)
    where = f"methods.{trained.method}"
    updates = updates_of(bench, trained.method)
    arguments = {"seed": run.seed} | fill(student.arguments, words, f"{where}.arguments")
    stages = [
        Stage(
            budget(base.students.arguments, max(1, round(part.share * updates)))
            | fill(part.arguments, words, f"{where}.stages[{number}].arguments"),
            part.targets,
            part.transfer,
        )
        for number, part in enumerate(student.stages)
    ]
    students = replace(
        base.students,
        arguments=budget(base.students.arguments, updates),
        each={
            trained.name: Student(
                student.init, arguments, student.targets or bench.targets, student.transfer, stages
            )
        },
    )
    words = placeholders(base, bench, run, work)
    decode = fill(method.decode, words, f"methods.{run.method}.decode")
    system = System(trained.name, method.label, method.predictive, decode)
    recipe = replace(
        common,
        # What no stage of this student wants is not made.
        targets=replace(base.targets, mode="none"),
        transfer=transfer_of(trained.method, student, base.transfer | bench.transfer),
        students=students,
        systems=reference | {run.name: system},
    )
    check(recipe)
    return recipe


def transfer_of(name: str, student: Method, known: Mapping[str, Transfer]) -> dict[str, Transfer]:
    """Return the sets that a method learns from; others may be of data that a recipe lacks.

    Raises:
        InputError: there is no such set.
    """
    wanted = (student.transfer, *(part.transfer for part in student.stages))
    used = [one for one in wanted if one is not None]
    for one in used:
        if one not in known:
            raise unknown("set", one, list(known), f"methods.{name}.transfer")
    return {one: known[one] for one in used}


def budget(arguments: Arguments, updates: int) -> Arguments:
    """Return the options of students with this many updates; schedules end where they do."""
    changed = {**arguments, "max-update": updates}
    if "total-num-update" in arguments:
        changed["total-num-update"] = updates
    if "warmup-updates" in arguments:
        changed["warmup-updates"] = min(arguments["warmup-updates"], max(1, updates // 5))
    return changed


def placeholders(base: Recipe, bench: Bench, run: Run, work: WorkFolder) -> dict[str, str]:
    """Return what the placeholders of a run's entry stand for."""
    method = bench.methods[run.method]
    trained = run if method.student is None else Run(method.student, run.seed)
    teachers = dict(zip(base.teacher_names, map(str, teacher_paths(base, work)), strict=True))
    languages = {"source": base.data.source_lang, "target": base.data.target_lang}
    return {
        "data": str(KINDS[base.data.kind].data_folder(work)),
        **{name: word for name, word in languages.items() if word is not None},
        "teachers": ":".join(teachers.values()),
        **teachers,
        "stores": ":".join(str(work.targets(subset)) for subset in ("train", "valid")),
        "student": str(student_path(base, trained, work)),
        "seed": str(run.seed),
        "updates": str(updates_of(bench, trained.method)),
        "folder": str(run_folder(work, run).own),
        "shared": str(shared_folder(work, run.method)),
        "python": sys.executable,
        **({} if base.data_root is None else {"data_root": base.data_root}),
    }


def student_path(base: Recipe, run: Run, work: WorkFolder) -> Path:
    """Return the checkpoint that a run's training leaves."""
    students = replace(base.students, each={run.name: Student()})
    return model_path(replace(base, students=students), work, run.name)


def plan_run(bench: Bench, run: Run, base: Recipe, work: WorkFolder) -> PlannedRun:
    """Return one run with all its steps, those it shares with others among them."""
    recipe = run_recipe(base, bench, run, work)
    plan = [step for step in make_plan(recipe, work) if step.stage <= 6]
    if run.seed is None:
        plan = [step for step in plan if step.stage != 3]
        return PlannedRun(run, recipe, needed([*plan, assess_step(run, recipe, work)]))
    method = bench.methods[run.method]
    trained = run if method.student is None else Run(method.student, run.seed)
    student = bench.methods[trained.method]
    before = command_steps(student.before, 3, base, bench, trained, work)
    after = command_steps(student.after, 4, base, bench, trained, work)
    if method.student is not None:
        after += command_steps(method.after, 4, base, bench, run, work)
    trainings = [reading(step, before) for step in plan if step.stage == 4]
    own = {step.name for step in generate_steps_of(recipe, run.name, work)}
    later = [step for step in plan if step.stage > 4]
    return PlannedRun(
        run,
        recipe,
        needed(
            [
                *(step for step in plan if step.stage < 4),
                *before,
                *trainings,
                *after,
                *(reading(step, after) if step.name in own else step for step in later),
                assess_step(run, recipe, work),
            ]
        ),
        stores=tuple(step.name for step in plan if step.stage == 3),
        training=tuple(step.name for step in (*before, *trainings, *after)),
    )


def needed(steps: Sequence[Step]) -> list[Step]:
    """Return the last of some steps and those that it cannot do without, in their order.

    A run compares itself with the reference system's predictions along the references alone: that
    one's translations are another run's.
    """
    kept = [steps[-1]]
    for step in reversed(steps[:-1]):
        if any(later.needs(step) for later in kept):
            kept.insert(0, step)
    return kept


def generate_steps_of(recipe: Recipe, system: str, work: WorkFolder) -> list[Step]:
    """Return the decodings and scorings of one system."""
    alone = replace(recipe, systems={system: recipe.systems[system]}, reference=system)
    return [*decode_steps(alone, work), *force_steps(alone, work)]


def join_plans(planned: Sequence[PlannedRun]) -> list[Step]:
    """Return the steps of all runs, shared ones once; a step comes after those that it reads.

    Raises:
        InputError: two different commands have one name.
    """
    steps: dict[str, Step] = {}
    for step in (step for one in planned for step in one.steps):
        if steps.setdefault(step.name, step).command != step.command:
            raise InputError(f"two commands are called {step.name!r}; rename one of them")
    return list(steps.values())


def command_steps(
    commands: Sequence[Command], stage: int, base: Recipe, bench: Bench, run: Run, work: WorkFolder
) -> list[Step]:
    """Return a method's commands as steps; each reads what the earlier ones write."""
    words = placeholders(base, bench, run, work)
    data = KINDS[base.data.kind].set_files(work, "train", "valid")
    steps: list[Step] = []
    for command in commands:
        where = f"methods.{run.method}.{command.name}"
        folder = shared_folder(work, run.method) if command.shared else run_folder(work, run).own
        here = words | {"folder": str(folder)}
        if command.shared:  # what is one for all seeds cannot depend on one
            here = {k: v for k, v in here.items() if k not in ("seed", "student")}
        name = f"{command.name} {run.method if command.shared else run.name}"
        step = Step(
            name,
            stage,
            tuple(shlex.split(fill(command.command, here, where))),
            (
                *data,
                *teacher_paths(base, work),
                *(Path(path) for path in fill(command.inputs, here, where)),
                *([Path(words["student"])] if stage == 4 else []),
            ),
            tuple(folder / output for output in command.outputs),
        )
        steps.append(reading(step, steps))
    return steps


def reading(step: Step, makers: Sequence[Step]) -> Step:
    """Return a step that also reads what others write."""
    outputs = tuple(output for maker in makers for output in maker.outputs)
    return replace(step, inputs=(*step.inputs, *outputs))


def assess_step(run: Run, recipe: Recipe, work: WorkFolder) -> Step:
    """Return the step that computes a run's numbers."""
    folder = run_folder(work, run)
    hypotheses = [
        work.decoded(run.name, name) for name in ("test", *recipe.data.tests, *recipe.data.ood)
    ]
    forced = [work.forced(run.name), work.forced(run.name, "valid")]
    return Step(
        f"assess {run.name}",
        7,
        ("python", "-m", "benchmarks.methods.assess", str(work.root), run.name),
        (folder.description, *hypotheses, *forced, work.forced(recipe.reference)),
        (folder.results, folder.samples),
    )


def settings_of(planned: PlannedRun, bench: Bench, work: WorkFolder) -> str:
    """Return a hash of all that a run's numbers depend on, the code and the data's files aside.

    It is that of its commands, wherever its folders and those of the data are, and of how it is
    assessed: runs of two machines have it in common.
    """
    recipe = planned.recipe
    commands = [step.command for step in planned.steps]
    text = json.dumps([commands, bench.detection, bench.rejection, asdict(recipe.assess)])
    places = {str(work.root): "WORK", sys.executable: "PYTHON", recipe.data_root: "DATA"}
    for place in sorted(filter(None, places), key=len, reverse=True):
        text = text.replace(place, places[place])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_runs(planned: Sequence[PlannedRun], bench: Bench, work: WorkFolder) -> None:
    """Write what each run is, where its assessment reads it."""
    for one in planned:
        folder = run_folder(work, one.run)
        content = {
            "updates": bench.updates,
            "settings": settings_of(one, bench, work),
            "detection": bench.detection,
            "rejection": bench.rejection,
            "steps": {
                "stores": one.stores,
                "training": one.training,
                "decoding": one.decoding,
            },
            "recipe": asdict(one.recipe),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        if folder.description.is_file() and folder.description.read_text(encoding="utf-8") == text:
            continue
        folder.root.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder.description) as handle:
            handle.write(text)
