"""Sources that no corpus has: a language model of the training set's, and what is drawn from it."""

from pathlib import Path

from recipes.common.command import render
from recipes.common.recipe import Arguments, Launch, Recipe
from recipes.common.steps import Step
from recipes.common.training import training_step
from recipes.common.work import WorkFolder

# A sample is a sentence: what is drawn begins and ends as one.
_LANGUAGE_MODEL: Arguments = {
    "task": "language_modeling",
    "sample-break-mode": "eos",
    "tokens-per-sample": 512,
}


def language_model_steps(recipe: Recipe, work: WorkFolder) -> list[Step]:
    """Return the binarising of the training set's sources and the training on them."""
    if recipe.language_model is None:
        return []
    source, _ = recipe.languages
    data = work.language_model / "data"
    dictionary = work.binarised / f"dict.{source}.txt"
    text = {name: work.pieces / f"{name}.{source}" for name in ("train", "valid")}
    command = (
        "fairseq-preprocess", "--only-source", "--trainpref", str(text["train"]),
        "--validpref", str(text["valid"]), "--srcdict", str(dictionary),
        "--destdir", str(data), "--workers", str(recipe.threads),
    )  # fmt: skip
    files = tuple(data / name for name in ("dict.txt", "train.bin", "valid.bin"))
    binarise = Step(
        "sources of the language model", 3, command, (*text.values(), dictionary), files, data
    )
    training = training_step(
        "language model",
        3,
        Launch(),  # small beside the others: one process, fairseq's own trainer
        data,
        _checkpoint(work),
        {"seed": recipe.seed} | _LANGUAGE_MODEL | recipe.language_model.arguments,
        files,
    )
    return [binarise, training]


def drawing_step(recipe: Recipe, work: WorkFolder, name: str) -> Step:
    """Return the drawing of the sources of a set to learn from.

    Args:
        recipe: the recipe.
        work: where.
        name: of the set.
    """
    source, target = recipe.languages
    folder, model = work.generated(name), _checkpoint(work)
    cutter = work.pieces / "spm.model"
    step_name = f"sources of transfer {name}"
    wanted = {"seed": recipe.seed} | (recipe.transfer[name].generate or {})
    command = (
        "seqdistill", "generate-sources", str(work.binarised), "-s", source, "-t", target,
        "--path", str(model), "--name", name, "--sentencepiece-model", str(cutter),
        "--output", str(folder), *render(wanted, step_name),
    )  # fmt: skip
    # No drawn sentence is one of the data, of whatever set.
    reads = (work.binarised / f"*.{source}.bin", work.binarised / "dict.*", model, cutter)
    data = generated_data(work, name)
    outputs = (
        folder / "manifest.json",
        data / f"{name}.{source}-{target}.{source}.bin",
        *(data / f"dict.{language}.txt" for language in (source, target)),
    )
    return Step(step_name, 3, command, reads, outputs, folder, resumes=True)


def generated_data(work: WorkFolder, name: str) -> Path:
    """Return the data folder with the drawn sources of a set to learn from."""
    return work.generated(name) / "data"


def _checkpoint(work: WorkFolder) -> Path:
    return work.language_model / "model" / "checkpoint_best.pt"
