"""Sentencepiece: train a joint model when none is given, and cut every text into pieces."""

import argparse
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from recipes.common.text import read_lines, write_lines
from seqdistill.errors import InputError

TYPES = ("unigram", "bpe")
DICTIONARY = "dict.txt"
"""A fairseq dictionary of all pieces."""

_LINES_AT_ONCE = 100_000
_FAIRSEQ_SYMBOLS = 4  # of every dictionary: beginning, padding, end, unknown
_MULTIPLE = 8  # matrix units like sizes that eight divides; fairseq-preprocess pads likewise


@dataclass(frozen=True)
class ModelSettings:
    """How a model is trained.

    Attributes:
        size: number of pieces, control symbols included.
        character_coverage: share of the characters that get a piece of their own; 1.0 keeps all.
        type: of :data:`TYPES`.
        sentences: train on so many lines of each text, evenly spread; None: on all.
    """

    size: int = 4000
    character_coverage: float = 1.0
    type: str = "unigram"
    sentences: int | None = None


def train_model(texts: Sequence[Path], model: Path, settings: ModelSettings) -> None:
    """Train one model on both sides of the training text.

    Args:
        texts: text files, one sentence a line.
        model: where the model goes; ``<model without suffix>.vocab`` is written beside it.
        settings: its kind and size.

    Raises:
        InputError: the text is too small for so many pieces.
    """
    import sentencepiece

    model.parent.mkdir(parents=True, exist_ok=True)
    samples = [_sample(text, model.parent, settings.sentences) for text in texts]
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=[str(text) for text in samples],
            model_prefix=str(model.with_suffix("")),
            vocab_size=settings.size,
            character_coverage=settings.character_coverage,
            model_type=settings.type,
            # One thread: the model then does not depend on how many cores the machine has.
            num_threads=1,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise InputError(
            f"sentencepiece could not train {settings.size} pieces ({error}); "
            "choose another data.pieces.size"
        ) from error
    finally:
        for sample in set(samples) - set(texts):
            sample.unlink()


def iterate_lines(path: Path) -> Iterator[str]:
    """Go through a UTF-8 text line by line, for texts that memory should not hold whole."""
    with open(path, encoding="utf-8", newline="\n") as handle:
        for line in handle:
            yield line.removesuffix("\n")


def _sample(text: Path, folder: Path, sentences: int | None) -> Path:
    """Write every n-th line of a text to a file of its own, unless all are wanted."""
    if sentences is None:
        return text
    lines = sum(1 for _ in iterate_lines(text))
    if lines <= sentences:
        return text
    sample = folder / f".sample{text.suffix}"
    # Spread evenly: corpora lie one after another in the text.
    chosen = (
        line for n, line in enumerate(iterate_lines(text)) if n * sentences % lines < sentences
    )
    write_lines(sample, chosen)
    return sample


def encode(model: Path, text: Path, output: Path, threads: int = 1) -> None:
    """Cut every line of ``text`` into pieces, separated by spaces."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def pieces() -> Iterator[str]:
        lines = iterate_lines(text)
        while block := list(islice(lines, _LINES_AT_ONCE)):
            for found in processor.encode(block, out_type=str, num_threads=threads):
                yield " ".join(found)

    write_lines(output, pieces())


def permute_pieces(pieces: Path, output: Path, seed: int) -> None:
    """Shuffle the pieces of every line: the same pieces and lengths, no words."""
    generator = random.Random(seed)
    lines = []
    for line in read_lines(pieces):
        words = line.split(" ")
        generator.shuffle(words)
        lines.append(" ".join(words))
    write_lines(output, lines)


def write_dictionary(model: Path, output: Path) -> None:
    """Write a fairseq dictionary of all pieces, whether a text uses them or not.

    Its size, fairseq's own four symbols included, is a multiple of eight, as
    ``fairseq-preprocess`` makes it where it counts pieces itself.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [
        processor.id_to_piece(number)
        for number in range(processor.vocab_size())
        if not (processor.is_control(number) or processor.is_unknown(number))
    ]
    missing = -(len(pieces) + _FAIRSEQ_SYMBOLS) % _MULTIPLE
    lines = [f"{piece} 1" for piece in pieces]
    write_lines(output, lines + [f"madeupword{number:04} 0" for number in range(missing)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut all texts of a folder into pieces, with a given model or one trained on ``train.*``."""
    parser = _parser()
    given = parser.parse_args(arguments)
    model = given.output / "spm.model"
    try:
        if given.model is None:
            texts = [given.text / f"train.{language}" for language in given.languages]
            settings = ModelSettings(
                given.size, given.character_coverage, given.type, given.sentences
            )
            train_model(texts, model, settings)
        else:
            model.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(given.model, model)
        for text in sorted(given.text.iterdir()):
            if text.suffix.removeprefix(".") in given.languages:
                encode(model, text, given.output / text.name, given.threads)
        source = given.languages[0]
        for new, _, name in (rule.partition("=") for rule in given.permute):
            permute_pieces(
                given.output / f"{name}.{source}", given.output / f"{new}.{source}", given.seed
            )
        if given.whole_dictionary:
            write_dictionary(model, given.output / DICTIONARY)
    except (InputError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="cut a folder of texts into sentence pieces")
    parser.add_argument("--text", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--languages", required=True, nargs=2, metavar=("SOURCE", "TARGET"))
    parser.add_argument("--model", type=Path, help="a given model; default: train one")
    parser.add_argument("--size", type=int, default=4000, help="pieces of a trained model")
    parser.add_argument("--character-coverage", type=float, default=1.0)
    parser.add_argument("--type", choices=TYPES, default="unigram", help="of a trained model")
    parser.add_argument(
        "--sentences", type=int, metavar="N", help="train on N lines of each text (default: all)"
    )
    parser.add_argument("--threads", type=int, default=1, help="that cut text")
    parser.add_argument(
        "--permute", nargs="*", default=[], metavar="NEW=SET",
        help="make a set whose source has the pieces of another one's in random order",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of --permute")
    parser.add_argument(
        "--whole-dictionary", action="store_true",
        help=f"write {DICTIONARY}, a fairseq dictionary of all pieces",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
