"""Cleaning of parallel text: every reason, the order in which they count, and what stays."""

import pytest

from recipes.common.cleaning import (
    REASONS,
    Cleaner,
    Rules,
    is_wrongly_decoded,
    normalise,
    reason_to_drop,
)

SMALL = Rules(max_words=5, max_characters=40, max_word_length=10, max_ratio=2.0, ratio_from=4)


def cleaned(pairs: list[tuple[str, str]], cleaner: Cleaner, name: str = "web") -> list[str]:
    raw = [(source.encode() + b"\n", target.encode() + b"\n") for source, target in pairs]
    return [source for source, _ in cleaner.clean(name, raw)]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("a b c", "d e f", None),
        ("", "d", "empty"),
        ("a", "", "empty"),
        ("a", "SchÃ¶n", "wrong_encoding"),
        ("a \ufffd b", "d", "wrong_encoding"),
        ("a \x01 b", "d", "wrong_encoding"),
        ("a \x85b", "d", "wrong_encoding"),
        ("a b c d e", "a b c d", None),  # five words are not too many
        ("a b c d e f", "a b c d", "too_long"),
        ("aaaaaaaaaa", "d", None),  # nor ten letters of a word
        ("aaaaaaaaaaa", "d", "too_long"),
        ("bbbbbbbbb bbbbbbbbb bbbbbbbbb bbbbbbbbbb", "d e", None),  # nor 40 characters
        ("bbbbbbbbb bbbbbbbbb bbbbbbbbbb bbbbbbbbbb", "d e", "too_long"),
        ("a b c", "d", None),  # three words for one are too short to tell
        ("a b c d", "e f", None),  # exactly twice as many
        ("a b c d e", "f g", "ratio"),
        ("f g", "a b c d e", "ratio"),
        ("a b", "a b", "copied"),
        ("", "SchÃ¶n", "empty"),  # the first reason counts
    ],
)
def test_reasons(source: str, target: str, reason: str | None) -> None:
    assert reason_to_drop(source, target, SMALL) == reason
    assert reason is None or reason in REASONS


@pytest.mark.parametrize(
    "text", ["Schön", "„Saal“ – Café", "50 €", "naïve", "Łódź", "日本", "plain", "à la carte ©"]
)
def test_text_that_was_decoded_wrongly_is_told_from_good_text(text: str) -> None:
    assert not is_wrongly_decoded(text)
    # As browsers read Windows-1252: bytes that it does not have are control characters.
    wrong = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode())
    assert is_wrongly_decoded(wrong) != text.isascii()


def test_spaces_and_composition() -> None:
    assert normalise("\u00a0a\t b\u2028c \r\n") == "a b c"
    assert normalise("u\u0308") == "\u00fc"


def test_duplicates_are_pairs_across_corpora() -> None:
    cleaner = Cleaner(Rules())
    first = [("one two", "eins zwei"), ("one  two", "eins zwei"), ("one two", "eins, zwei")]
    assert cleaned(first, cleaner, "first") == ["one two", "one two"]
    assert cleaned([("one two", "eins zwei"), ("three", "drei")], cleaner, "second") == ["three"]
    assert cleaner.counts["first"].dropped == {"duplicate": 1}
    second = cleaner.counts["second"]
    assert (second.read, second.kept, dict(second.dropped)) == (2, 1, {"duplicate": 1})


def test_held_out_sources_are_not_trained_on_whatever_their_translation() -> None:
    cleaner = Cleaner(Rules(), held_out=["A  test."])
    assert cleaned([("A test.", "Egal."), ("Another.", "Noch einer.")], cleaner) == ["Another."]
    assert cleaner.counts["web"].dropped == {"held_out": 1}


def test_bytes_that_are_no_text_are_counted_and_the_rest_goes_on() -> None:
    cleaner = Cleaner(Rules())
    raw = [(b"Stra\xdfe\n", b"street\n"), (b"road\n", "Straße\n".encode()), (b"x\n", b"\xff\n")]
    assert list(cleaner.clean("web", raw)) == [("road", "Straße")]
    count = cleaner.counts["web"]
    assert (count.read, count.kept, dict(count.dropped)) == (3, 1, {"undecodable": 2})


def test_read_is_kept_and_dropped() -> None:
    cleaner = Cleaner(SMALL, ["held out"])
    pairs = [("a b", "c"), ("a b", "c"), ("held out", "x"), ("", "x"), ("y", "y"), ("a", "b")]
    assert len(cleaned(pairs, cleaner)) == 2
    count = cleaner.counts["web"]
    assert count.read == count.kept + sum(count.dropped.values()) == 6
