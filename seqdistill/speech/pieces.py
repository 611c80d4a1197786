"""Sentence pieces of transcripts: a model trained on them or given, and fairseq's dictionary."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError
from seqdistill.speech.extras import need

TYPES = ("unigram", "bpe", "char")
#: sentencepiece passes over longer sentences (in bytes) without a word.
_LONGEST = 4192


def train_pieces(texts: Sequence[str], size: int, kind: str) -> bytes:
    """Train a sentencepiece model.

    Args:
        texts: transcripts.
        size: pieces, the four control symbols (<s>, <pad>, </s>, <unk>) included; ``char`` has one
            for each character, and at most this many.
        kind: ``unigram``, ``bpe`` or ``char``.

    Returns:
        The model as a file.

    Raises:
        InputError: the texts do not give that many pieces (it says how many they do), or their
            characters alone are more.
    """
    model = _train(texts, size, kind)
    characters = None
    if model is None or kind == "char":
        everything = _train(texts, 1 << 20, "char")
        characters = 0 if everything is None else len(_processor(everything))
    if model is None or (characters is not None and characters > size):
        raise InputError(
            f"--pieces {size}: expected at least {characters}, one for each character of the "
            "transcripts and 4 control symbols"
        )
    found = len(_processor(model))
    if found < size and kind != "char":
        raise InputError(
            f"--pieces {size}: the {len(texts):,} transcripts give at most {found} {kind} pieces "
            f"(4 control symbols included); choose --pieces {found} or fewer"
        )
    return model


def _train(texts: Sequence[str], size: int, kind: str) -> bytes | None:
    """Return a model of at most ``size`` pieces, None if there are more characters than that."""
    sentencepiece = need("sentencepiece", "cutting transcripts into pieces")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            model_type=kind,
            character_coverage=1.0,
            max_sentence_length=max(_LONGEST, *(len(text.encode()) + 1 for text in texts)),
            hard_vocab_limit=False,  # what is possible is compared with what was asked for
            bos_id=0,  # fairseq's numbers of the control symbols
            pad_id=1,
            eos_id=2,
            unk_id=3,
            # One thread: the model then does not depend on how many cores the machine has.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError:
        return None
    return model.getvalue()


def read_model(path: Path) -> bytes:
    """Read a given sentencepiece model.

    Raises:
        InputError: there is none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a sentencepiece model ({error.strerror})") from error
    _processor(data, str(path))
    return data


def encode(model: bytes, texts: Sequence[str]) -> list[list[str]]:
    """Cut texts into pieces."""
    result: list[list[str]] = _processor(model).encode(list(texts), out_type=str)
    return result


def dictionary_text(model: bytes, encoded: Iterable[Sequence[str]]) -> str:
    """Return fairseq's dictionary of a model: its pieces in order, with their numbers in a text.

    Control symbols, which fairseq adds by itself, are not in it.
    """
    processor = _processor(model)
    counts = Counter(piece for pieces in encoded for piece in pieces)
    numbers = range(len(processor))
    pieces = [processor.id_to_piece(n) for n in numbers if _is_text(processor, n)]
    return "".join(f"{piece} {counts[piece]}\n" for piece in pieces)


def read_dictionary(path: Path) -> str:
    """Read a given fairseq dictionary.

    Raises:
        InputError: there is none; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected fairseq's dictionary ({error})") from error
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        piece, _, count = line.rpartition(" ")
        if not piece or not count.isdecimal():
            raise InputError(f"{path}:{number}: expected '<piece> <count>', found {line!r}")
    return text


def count_unknown(dictionary: str, encoded: Iterable[Sequence[str]]) -> tuple[int, int]:
    """Return how many pieces of a text a dictionary does not have, and how many there are."""
    known = {line.rpartition(" ")[0] for line in dictionary.split("\n")}
    unknown = total = 0
    for pieces in encoded:
        total += len(pieces)
        unknown += sum(piece not in known for piece in pieces)
    return unknown, total


def _processor(model: bytes, name: str = "the model") -> Any:
    sentencepiece = need("sentencepiece", "cutting transcripts into pieces")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise InputError(f"{name}: expected a sentencepiece model, found something else") from error


def _is_text(processor: Any, number: int) -> bool:
    return not (processor.is_control(number) or processor.is_unknown(number))
