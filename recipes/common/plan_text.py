"""What is a text recipe's own: its first stage, stored targets, and the losses' gradients."""

import json
from pathlib import Path

from recipes.common.command import render
from recipes.common.pieces import DICTIONARY
from recipes.common.plan_generated import drawing_step, generated_data, language_model_steps
from recipes.common.recipe import Arguments, Pieces, Recipe, data_files, shared_modules
from recipes.common.steps import Step
from recipes.common.work import WorkFolder, model_path, teacher_paths

TEACHER: Arguments = {}
STUDENT: Arguments = {"task": "ensemble_teacher_translation"}
DECODING: Arguments = {"remove-bpe": "sentencepiece"}


def data_folder(work: WorkFolder) -> Path:
    """What fairseq is given."""
    return work.binarised


def set_files(work: WorkFolder, *names: str) -> tuple[Path, ...]:
    """What is read of that folder when these sets are used."""
    return *(work.binarised / f"{name}.*" for name in names), work.binarised / "dict.*"


def data_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 1: text, pieces, binarised sets."""
    source, target = recipe.languages
    folder = Path("recipes") / recipe.name
    given = recipe.given
    further = (*recipe.data.tests, *recipe.data.unlabelled, *recipe.data.ood)
    names = ("train", "valid", "test", *further)
    sets = [name for name in names if name not in recipe.data.permuted]
    text = Step(
        "text",
        1,
        (
            "python", "-m", f"recipes.{recipe.name}.data", "--source-lang", source,
            "--target-lang", target, "--output", str(work.text),
            "--options", json.dumps(recipe.data.options),
        ),
        (folder / "*.py", *shared_modules(recipe), *data_files(recipe)),
        tuple(work.text / f"{name}.{source}" for name in sets),
        work.text,
    )  # fmt: skip
    command = ["python", "-m", "recipes.common.pieces", "--text", str(work.text)]
    command += ["--output", str(work.pieces), "--languages", source, target]
    cut = recipe.data.pieces or Pieces()
    whole = cut.whole_dictionary and given is None
    if given is not None:
        command += ["--model", given.model]
    else:
        command += ["--size", str(cut.size), "--character-coverage", str(cut.character_coverage)]
        command += [] if cut.type == "unigram" else ["--type", cut.type]
        command += [] if cut.sentences is None else ["--sentences", str(cut.sentences)]
        command += ["--whole-dictionary"] if whole else []
    if recipe.data.permuted:
        rules = [f"{new}={old}" for new, old in recipe.data.permuted.items()]
        command += ["--permute", *rules, "--seed", str(recipe.seed)]
    command += [] if recipe.threads == 1 else ["--threads", str(recipe.threads)]
    pieces = Step(
        "pieces",
        1,
        tuple(command),
        (work.text / "*.*", *([Path(given.model)] if given else [])),
        (
            work.pieces / "spm.model",
            *(work.pieces / f"{name}.{source}" for name in names),
            *([work.pieces / DICTIONARY] if whole else []),
        ),
        work.pieces,
    )
    command = ["python", "-m", "recipes.common.binarise", "--pieces", str(work.pieces)]
    command += ["--output", str(work.binarised), "--languages", source, target]
    dictionary = work.pieces / DICTIONARY if whole else None
    if given is not None:
        dictionary = Path(given.dictionary)
    command += [] if dictionary is None else ["--dictionary", str(dictionary)]
    command += [] if recipe.threads == 1 else ["--workers", str(recipe.threads)]
    binarise = Step(
        "binarise",
        1,
        tuple(command),
        (work.pieces / "*.*", *([Path(given.dictionary)] if given else [])),
        (
            *(work.binarised / f"dict.{language}.txt" for language in (source, target)),
            *(work.binarised / f"{name}.{source}-{target}.{source}.bin" for name in names),
        ),
        work.binarised,
    )
    return [text, pieces, binarise]


def target_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Stage 3: what the ensemble says about every token, stored once, of the sets that are used."""
    stages = [stage for name in recipe.students.each for stage in recipe.stages_of(name)]
    is_stored = recipe.targets.mode == "store" or any(one.targets == "store" for one in stages)
    steps = []
    # Students are judged on real references, whatever they train on.
    on_references = {k: v for k, v in recipe.targets.arguments.items() if k not in _OF_OUTPUTS}
    if recipe.targets.mode == "store" or any(
        one.targets == "store" and one.transfer is None for one in stages
    ):
        train = work.targets("train")
        steps.append(store_step("targets of train", recipe, work, "train", train))
    if is_stored:
        valid = work.targets("valid")
        steps.append(store_step("targets of valid", recipe, work, "valid", valid, on_references))
    names = list(dict.fromkeys(one.transfer for one in stages if one.transfer is not None))
    drawn = [name for name in names if recipe.transfer[name].generate is not None]
    if drawn:
        steps += language_model_steps(recipe, work)
        steps += [drawing_step(recipe, work, name) for name in drawn]
    for name in names:
        step_name, subset = f"targets of transfer {name}", recipe.subset_of(name)
        arguments = recipe.targets.arguments | recipe.transfer[name].arguments
        data = generated_data(work, name) if name in drawn else None
        folder = work.transfer(name)
        steps.append(store_step(step_name, recipe, work, subset, folder, arguments, data))
    return steps


_OF_OUTPUTS = ("targets", "outputs", "sampling", "seed")


def store_step(
    name: str,
    recipe: Recipe,
    work: WorkFolder,
    subset: str,
    folder: Path,
    arguments: Arguments | None = None,
    data: Path | None = None,
) -> Step:
    """Return the making of one target store.

    Args:
        name: of the step.
        recipe: the recipe.
        work: where.
        subset: of the data.
        folder: of the store.
        arguments: options of ``seqdistill cache-targets``; None takes the recipe's.
        data: the data folder; None: the recipe's.
    """
    source, target = recipe.languages
    teachers = teacher_paths(recipe, work)
    arguments = recipe.targets.arguments if arguments is None else arguments
    data = work.binarised if data is None else data
    command = (
        "seqdistill", "cache-targets", str(data), "-s", source, "-t", target,
        "--subset", subset, "--ensemble-paths", ":".join(map(str, teachers)),
        "--output", str(folder), *render(arguments, name),
    )  # fmt: skip
    reads = (data / f"{subset}.*", data / "dict.*", *teachers)
    return Step(name, 3, command, reads, (folder / "manifest.json",), folder, resumes=True)


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
