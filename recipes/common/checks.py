"""What the types of a recipe cannot say: names that refer to something, keys that go together."""

from pathlib import Path
from typing import TYPE_CHECKING

from recipes.common.config import unknown
from seqdistill.errors import InputError

if TYPE_CHECKING:
    from recipes.common.recipe import Recipe, Stage, Student

KINDS = ("text", "speech")
"""Values of ``data.kind``."""

TARGET_MODES = ("store", "online", "none")
"""Values of ``targets.mode``."""


def check(recipe: "Recipe") -> None:
    """Check that names refer to something, and that keys and numbers make sense together.

    Raises:
        InputError: they do not; the message names the key.
    """
    _check_kind(recipe)
    if recipe.teachers.mode not in ("train", "given"):
        raise InputError(f"teachers.mode must be train or given, got {recipe.teachers.mode!r}")
    if recipe.targets.mode not in TARGET_MODES:
        raise InputError(f"targets.mode must be store, online or none, got {recipe.targets.mode!r}")
    if recipe.teachers.mode == "given" and recipe.given is None:
        raise InputError("teachers.mode is given, so teachers.given has to say which")
    for key in ("teachers", "students"):
        average = getattr(recipe, key).average
        if average is not None and average < 1:
            raise InputError(f"{key}.average must be at least 1 checkpoint or null, got {average}")
    if not recipe.teacher_names:
        raise InputError("there are no teachers; set teachers.count or teachers.given.checkpoints")
    for key, number in {"jobs": recipe.jobs, "threads": recipe.threads}.items():
        if number < 1:
            raise InputError(f"{key} must be at least 1, got {number}")
    if recipe.students.init not in (None, *recipe.teacher_names):
        raise unknown("teacher", str(recipe.students.init), recipe.teacher_names, "students.init")
    for name, student in recipe.students.each.items():
        if student.init not in (None, "random", *recipe.teacher_names):
            known = ["random", *recipe.teacher_names]
            raise unknown("teacher", str(student.init), known, f"students.each.{name}.init")
        _check_stages(recipe, name)
    clash = sorted({"teachers", *recipe.teacher_names} & recipe.students.each.keys())
    if clash:
        raise InputError(f"students.each.{clash[0]}: a teacher has that name; choose another")
    models = ["teachers", *recipe.teacher_names, *recipe.students.each]
    for name, system in recipe.systems.items():
        if system.models not in models:
            raise unknown("model", system.models, models, f"systems.{name}.models")
        if system.predictive not in (None, "base", "mean"):
            raise InputError(
                f"systems.{name}.predictive must be base or mean, got {system.predictive!r}"
            )
    for name in recipe.gradients.at if recipe.gradients else ():
        if name not in models[1:]:
            raise unknown("model", name, models[1:], "gradients.at")
    if recipe.reference not in recipe.systems:
        raise unknown("system", recipe.reference, list(recipe.systems), "reference")
    kinds = {"ood": recipe.data.ood, "tests": recipe.data.tests}
    kinds["unlabelled"] = recipe.data.unlabelled
    for key, names in kinds.items():
        reserved = sorted({"train", "valid", "test"} & names.keys())
        if reserved:
            raise InputError(f"data.{key}.{reserved[0]}: that name is the in-domain set's")
    both = sorted(recipe.data.tests.keys() & recipe.data.ood.keys())
    if both:
        raise InputError(f"data.tests.{both[0]}: an out-of-domain set has that name")
    both = sorted(recipe.data.unlabelled.keys() & {**recipe.data.tests, **recipe.data.ood}.keys())
    if both:
        raise InputError(f"data.unlabelled.{both[0]}: another set has that name")
    _check_transfer(recipe)
    _check_permuted(recipe)
    _check_launch(recipe)
    for number, published in enumerate(recipe.published):
        where = f"published[{number}]"
        if published.system not in recipe.systems:
            raise unknown("system", published.system, list(recipe.systems), f"{where}.system")
        sets = ["test", *recipe.data.tests, *recipe.data.ood]
        if published.set not in sets:
            raise unknown("set", published.set, sets, f"{where}.set")
        if published.score not in ("bleu", "chrf"):
            raise unknown("score", published.score, ["bleu", "chrf"], f"{where}.score")


def _check_transfer(recipe: "Recipe") -> None:
    """Check that further sets to learn from are made of something, and by whom."""
    sets = ("train", "valid", "test", *recipe.data.tests, *recipe.data.ood, *recipe.data.unlabelled)
    for name, transfer in recipe.transfer.items():
        where = f"transfer.{name}"
        known = ["train", *recipe.data.unlabelled]
        if transfer.subset not in known:
            raise unknown("set", transfer.subset, known, f"{where}.subset")
        if transfer.generate is not None:
            if transfer.subset != "train":
                raise InputError(f"{where}: its sources are drawn, so subset has no meaning")
            if name in sets:
                raise InputError(f"{where}: its sources are drawn, and another set has that name")
            if recipe.language_model is None:
                raise InputError(
                    f"{where}: its sources are drawn from a language model; say under "
                    "language_model.arguments how that is trained"
                )
            if "count" not in transfer.generate:
                raise InputError(f"{where}.generate.count has to say how many sentences are drawn")
        if transfer.subset != "train" or transfer.generate is not None:
            wanted = (recipe.targets.arguments | transfer.arguments).get("targets")
            if wanted != "ensemble":
                raise InputError(
                    f"{where}: {recipe.subset_of(name)} has no references, so the ensemble has to "
                    "translate it: set arguments.targets to ensemble"
                )


def _check_stages(recipe: "Recipe", name: str) -> None:
    """Check the names in the parts of a student's training."""
    student, where = recipe.students.each[name], f"students.each.{name}"
    if "." in name:
        raise InputError(f"{where}: a student's name has no dots; its stages' folders have")
    parts: dict[str, Student | Stage] = {where: student}
    parts |= {f"{where}.stages[{number}]": stage for number, stage in enumerate(student.stages)}
    for place, part in parts.items():
        if part.targets not in (None, *TARGET_MODES):
            raise unknown("mode", part.targets, TARGET_MODES, f"{place}.targets")
        if part.transfer is not None and part.transfer not in recipe.transfer:
            raise unknown("set", part.transfer, list(recipe.transfer), f"{place}.transfer")


def _check_permuted(recipe: "Recipe") -> None:
    """Check that permuted sets are out of domain, and made of sets that are not."""
    there = ["test", *recipe.data.tests, *recipe.data.ood]
    for name, origin in recipe.data.permuted.items():
        if name not in recipe.data.ood:
            raise unknown("set", name, list(recipe.data.ood), "data.permuted")
        if origin not in there or origin in recipe.data.permuted:
            known = [one for one in there if one not in recipe.data.permuted]
            raise unknown("set", origin, known, f"data.permuted.{name}")


def _check_launch(recipe: "Recipe") -> None:
    """Check that the launch of trainings is one that can be."""
    launch = recipe.launch
    if launch.processes is not None and launch.processes < 1:
        raise InputError(f"launch.processes must be at least 1 or null, got {launch.processes}")
    if launch.processes is not None and launch.launcher:
        raise InputError(
            "launch.processes is for torchrun on this machine, and launch.launcher takes its "
            "place; leave one of them null"
        )
    repository = Path(__file__).resolve().parents[2]  # recipes run from there
    if launch.deepspeed is not None and not (repository / launch.deepspeed).is_file():
        raise InputError(f"launch.deepspeed: {launch.deepspeed}: no such file")


def _check_kind(recipe: "Recipe") -> None:
    """Check that the keys are those of the kind of data."""
    data = recipe.data
    if data.kind not in KINDS:
        raise unknown("kind", data.kind, KINDS, "data.kind")
    if data.kind == "text":
        _ = recipe.languages  # raises where one is missing
        if data.prepare:
            raise InputError("data.prepare is for data.kind speech; text is cut by data.pieces")
        return
    text_only = {
        "data.source_lang": data.source_lang,
        "data.target_lang": data.target_lang,
        "data.pieces": data.pieces,
        "data.tests": data.tests or None,
        "data.permuted": data.permuted or None,
        "data.unlabelled": data.unlabelled or None,
        "transfer": recipe.transfer or None,
        "language_model": recipe.language_model,
        "gradients": recipe.gradients,
    }
    for key, value in text_only.items():
        if value is not None:
            raise InputError(
                f"{key} is for data.kind text; a speech recipe leaves it out (its pieces are made "
                "by data.prepare, options of seqdistill prepare-speech)"
            )
    if recipe.targets.mode == "store":
        raise InputError(
            "targets.mode must be online for data.kind speech (or none), got store: its "
            "features are augmented anew in every epoch, so nothing the teachers said can be kept"
        )
    for name in recipe.students.each:
        if any(stage.targets == "store" for stage in recipe.stages_of(name)):
            raise InputError(
                f"students.each.{name}: targets must be online for data.kind speech (or none), got "
                "store: nothing that teachers say of features that are augmented anew can be kept"
            )
