"""What is made of the training set for all sets: pieces, and statistics for global CMVN."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqdistill.errors import InputError
from seqdistill.files import write_whole
from seqdistill.speech import pieces
from seqdistill.speech.cmvn import merge_all
from seqdistill.speech.configuration import DICTIONARY, PIECE_MODEL, STATISTICS
from seqdistill.speech.plan import TRAIN, Options
from seqdistill.speech.sets import SetWork

#: A training set with a larger share of unknown pieces was not meant for its piece model.
_MOST_UNKNOWN = 0.05


@dataclass(frozen=True)
class Pieces:
    """A sentencepiece model, as its file, and fairseq's dictionary, as text."""

    model: bytes
    dictionary: str


def pieces_of(folder: Path) -> Pieces:
    """Return the pieces of a finished folder."""
    dictionary = (folder / DICTIONARY).read_text(encoding="utf-8")
    return Pieces((folder / PIECE_MODEL).read_bytes(), dictionary)


def make_pieces(options: Options, texts: Sequence[str], say: Callable[[str], None]) -> Pieces:
    """Return the pieces that are given, or train some.

    Args:
        options: what is wanted.
        texts: transcripts of the training set; none if pieces are given.
        say: takes lines for the user.

    Raises:
        InputError: a given file is unusable, or the texts do not give that many pieces.
    """
    if options.piece_model is not None:
        model = pieces.read_model(options.piece_model)
    else:
        kind, size = options.piece_type, options.pieces
        most = "at most " if kind == "char" else ""
        say(f"training {most}{size:,} {kind} pieces on {len(texts):,} transcripts")
        model = pieces.train_pieces(texts, size, kind)
    if options.dictionary is not None:
        return Pieces(model, pieces.read_dictionary(options.dictionary))
    return Pieces(model, pieces.dictionary_text(model, pieces.encode(model, texts)))


def count_unknown(one: SetWork, found: Pieces, say: Callable[[str], None]) -> int | None:
    """Return how many pieces of a set's transcripts are unknown, None if it has none.

    Raises:
        InputError: so many of the training set's that the pieces cannot be meant for it.
    """
    texts = one.texts()
    if not texts:
        return None
    unknown, total = pieces.count_unknown(found.dictionary, pieces.encode(found.model, texts))
    if one.name == TRAIN and unknown > _MOST_UNKNOWN * total:
        raise InputError(
            f"set {one.name}: {unknown:,} of {total:,} pieces of the transcripts are not in the "
            "dictionary; are the transcripts in the same case and language as the piece model, "
            "and is the dictionary that model's?"
        )
    if unknown:
        say(f"{one.name}: {unknown:,} of {total:,} pieces of the transcripts are unknown")
    return unknown


def write_statistics(folder: Path, train: SetWork, bins: int) -> None:
    """Write mean and standard deviation of the training set's features, for global CMVN."""
    parts = [note.moments for note in train.notes if note.moments is not None]
    mean, std = merge_all(parts, bins).statistics()
    buffer = io.BytesIO()
    np.savez(buffer, mean=mean, std=std)
    write_whole(folder / STATISTICS, buffer.getvalue())
