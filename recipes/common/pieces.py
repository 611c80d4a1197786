"""Sentencepiece: train a joint model when none is given, and cut every text into pieces."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from recipes.common.text import read_lines, write_lines
from seqdistill.errors import InputError


def train_model(texts: Sequence[Path], model: Path, size: int, character_coverage: float) -> None:
    """Train one unigram model on both sides of the training text.

    Args:
        texts: text files, one sentence a line.
        model: where the model goes; ``<model without suffix>.vocab`` is written beside it.
        size: number of pieces, control symbols included.
        character_coverage: share of the characters that get a piece of their own; 1.0 keeps all.
    """
    import sentencepiece

    model.parent.mkdir(parents=True, exist_ok=True)
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=[str(text) for text in texts],
            model_prefix=str(model.with_suffix("")),
            vocab_size=size,
            character_coverage=character_coverage,
            model_type="unigram",
            # One thread: the model then does not depend on how many cores the machine has.
            num_threads=1,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise InputError(
            f"sentencepiece could not train {size} pieces ({error}); "
            "choose another data.pieces.size"
        ) from error


def encode(model: Path, text: Path, output: Path) -> None:
    """Cut every line of ``text`` into pieces, separated by spaces."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    lines = read_lines(text)
    write_lines(output, (" ".join(pieces) for pieces in processor.encode(lines, out_type=str)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut all texts of a folder into pieces, with a given model or one trained on ``train.*``."""
    parser = argparse.ArgumentParser(description="cut a folder of texts into sentence pieces")
    parser.add_argument("--text", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--languages", required=True, nargs=2, metavar=("SOURCE", "TARGET"))
    parser.add_argument("--model", type=Path, help="a given model; default: train one")
    parser.add_argument("--size", type=int, default=4000, help="pieces of a trained model")
    parser.add_argument("--character-coverage", type=float, default=1.0)
    given = parser.parse_args(arguments)
    model = given.output / "spm.model"
    try:
        if given.model is None:
            texts = [given.text / f"train.{language}" for language in given.languages]
            train_model(texts, model, given.size, given.character_coverage)
        else:
            model.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(given.model, model)
        for text in sorted(given.text.iterdir()):
            if text.suffix.removeprefix(".") in given.languages:
                encode(model, text, given.output / text.name)
    except (InputError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
