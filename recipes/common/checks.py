"""What the types of a recipe cannot say: names that refer to something, keys that go together."""

from typing import TYPE_CHECKING

from recipes.common.config import unknown
from seqdistill.errors import InputError

if TYPE_CHECKING:
    from recipes.common.recipe import Recipe

KINDS = ("text", "speech")
"""Values of ``data.kind``."""


def check(recipe: "Recipe") -> None:
    """Check that names refer to something, and that keys and numbers make sense together.

    Raises:
        InputError: they do not; the message names the key.
    """
    _check_kind(recipe)
    if recipe.teachers.mode not in ("train", "given"):
        raise InputError(f"teachers.mode must be train or given, got {recipe.teachers.mode!r}")
    if recipe.targets.mode not in ("store", "online"):
        raise InputError(f"targets.mode must be store or online, got {recipe.targets.mode!r}")
    if recipe.teachers.mode == "given" and recipe.given is None:
        raise InputError("teachers.mode is given, so teachers.given has to say which")
    average = recipe.teachers.average
    if average is not None and average < 1:
        raise InputError(f"teachers.average must be at least 1 checkpoint or null, got {average}")
    if not recipe.teacher_names:
        raise InputError("there are no teachers; set teachers.count or teachers.given.checkpoints")
    for key, number in {"jobs": recipe.jobs, "threads": recipe.threads}.items():
        if number < 1:
            raise InputError(f"{key} must be at least 1, got {number}")
    if recipe.students.init not in (None, *recipe.teacher_names):
        raise unknown("teacher", str(recipe.students.init), recipe.teacher_names, "students.init")
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
    reserved = sorted({"train", "valid", "test"} & recipe.data.ood.keys())
    if reserved:
        raise InputError(f"data.ood.{reserved[0]}: that name is the in-domain set's")


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
        "gradients": recipe.gradients,
    }
    for key, value in text_only.items():
        if value is not None:
            raise InputError(
                f"{key} is for data.kind text; a speech recipe leaves it out (its pieces are made "
                "by data.prepare, options of seqdistill prepare-speech)"
            )
    if recipe.targets.mode != "online":
        raise InputError(
            f"targets.mode must be online for data.kind speech, got {recipe.targets.mode}: its "
            "features are augmented anew in every epoch, so nothing the teachers said can be kept"
        )
