"""Clean parallel text: what is dropped is counted, by the reason for which it is dropped."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

REASONS = {
    "undecodable": "a side is not UTF-8",
    "empty": "a side has no characters but spaces",
    "wrong_encoding": "a side was decoded wrongly before: Ã¤ for ä, U+FFFD, control characters",
    "too_long": "a side has too many words or characters, or a word too many characters",
    "ratio": "one side has too many words for the other",
    "copied": "both sides are the same",
    "held_out": "the source is a sentence of the validation or a test set",
    "duplicate": "the pair was there before",
}
"""Why a pair is dropped, in the order in which it is looked at: the first that holds counts."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Rules:
    """When a pair is dropped.

    Attributes:
        max_words: of a side.
        max_characters: of a side; it bounds the pieces, of which a model reads so many.
        max_word_length: characters of a word: longer ones are addresses, tables, noise.
        max_ratio: words of one side by those of the other.
        ratio_from: words of the longer side from which the ratio is looked at: two words for one
            are no sign of a wrong pair.
    """

    max_words: int = 250
    max_characters: int = 1000
    max_word_length: int = 100
    max_ratio: float = 2.0
    ratio_from: int = 6


@dataclass
class Count:
    """Pairs of a corpus: read, kept, and dropped by reason."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Cleaner:
    """Goes through corpora one after another; duplicates are found across all of them.

    Memory: about 100 bytes a pair that is kept, for 64 bits of its hash (any two of six million
    different pairs share theirs with a probability of 1e-6, and one would be lost).

    Args:
        rules: when a pair is dropped.
        held_out: sources that must not be trained on.
    """

    def __init__(self, rules: Rules, held_out: Iterable[str] = ()) -> None:
        self.rules = rules
        self.held_out = {_hash(normalise(source)) for source in held_out}
        self.counts: dict[str, Count] = {}
        self._seen: set[int] = set()

    def clean(self, name: str, pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
        """Yield the pairs of a corpus that are kept, with single spaces and composed characters.

        Args:
            name: of the corpus, for the counts.
            pairs: lines of both sides as they are in the files.
        """
        count = self.counts.setdefault(name, Count())
        for source_bytes, target_bytes in pairs:
            count.read += 1
            try:
                source, target = normalise(source_bytes.decode()), normalise(target_bytes.decode())
            except UnicodeDecodeError:
                count.dropped["undecodable"] += 1
                continue
            reason = reason_to_drop(source, target, self.rules) or self._known(source, target)
            if reason is None:
                count.kept += 1
                yield source, target
            else:
                count.dropped[reason] += 1

    def _known(self, source: str, target: str) -> str | None:
        if _hash(source) in self.held_out:
            return "held_out"
        pair = _hash(f"{source}\n{target}")
        if pair in self._seen:
            return "duplicate"
        self._seen.add(pair)
        return None


def normalise(text: str) -> str:
    """Return text with composed characters (NFC) and one space wherever there is any.

    Example:
        >>> normalise(" two  words ")
        'two words'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def reason_to_drop(source: str, target: str, rules: Rules) -> str | None:
    """Return why a pair is dropped, of the reasons that lie in the pair itself; None keeps it.

    Example:
        >>> reason_to_drop("Fine.", "SchÃ¶n.", Rules())
        'wrong_encoding'
    """
    if not source or not target:
        return "empty"
    if is_wrongly_decoded(source) or is_wrongly_decoded(target):
        return "wrong_encoding"
    sides = source.split(), target.split()
    if max(len(source), len(target)) > rules.max_characters or any(
        len(words) > rules.max_words or max(map(len, words)) > rules.max_word_length
        for words in sides
    ):
        return "too_long"
    fewer, more = sorted(map(len, sides))
    if more >= rules.ratio_from and more > rules.max_ratio * fewer:
        return "ratio"
    return "copied" if source == target else None


def is_wrongly_decoded(text: str) -> bool:
    """Whether text shows what is left of a wrong decoding.

    UTF-8 that was read as Windows-1252 can be turned back into valid UTF-8; of text that was read
    rightly that hardly ever holds, since an accented letter alone is no valid UTF-8.

    Example:
        >>> is_wrongly_decoded("SchÃ¶n"), is_wrongly_decoded("Schön"), is_wrongly_decoded("50 €")
        (True, False, False)
    """
    if text.isascii():
        return not text.isprintable()
    if _REPLACEMENT in text or any(unicodedata.category(letter) == "Cc" for letter in text):
        return True
    try:
        return text.encode("cp1252").decode() != text
    except UnicodeError:
        return False


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
