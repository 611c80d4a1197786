"""Everything in a split folder is an utterance or a listed problem."""

from pathlib import Path

import pytest

from seqdistill.errors import InputError
from seqdistill.speech.layout import Listing, list_set
from seqdistill.speech.problems import (
    KINDS,
    Problem,
    Tolerance,
    count_kinds,
    read_problems,
    write_problems,
)
from tests.unit.speech_cases import DATA, needs_data, write_split


def found(listing: Listing) -> list[tuple[str, str]]:
    return [(Path(one.file).name, one.kind) for one in listing.problems]


def test_utterances_in_order_with_their_words_and_speakers(tmp_path: Path) -> None:
    paths = write_split(tmp_path / "a", 4)
    trans = tmp_path / "a" / "1" / "7" / "1-7.trans.txt"
    trans.write_bytes("\ufeff1-7-0001  TWO\tWORDS\u2028X \r\n\r\n1-7-0000 ÜBER\r\n".encode())
    listing = list_set("test", [tmp_path / "a"])
    assert [one.path for one in listing.recordings] == paths
    assert [one.id for one in listing.recordings] == [p.stem for p in paths]
    assert [one.speaker for one in listing.recordings] == ["1", "1", "2", "2"]
    assert [one.text for one in listing.recordings[:2]] == ["ÜBER", "TWO WORDS X"]
    assert [one.size for one in listing.recordings] == [p.stat().st_size for p in paths]
    assert (listing.problems, listing.has_transcripts, listing.files) == ([], True, 4)


def test_several_folders_are_one_set(tmp_path: Path) -> None:
    first = write_split(tmp_path / "a", 4)
    second = write_split(tmp_path / "b", 2, first=8, speakers=1, form="WAV")
    listing = list_set("train", [tmp_path / "b", tmp_path / "a"])
    assert [one.path for one in listing.recordings] == second + first


def test_what_does_not_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_split(folder, 8)
    one, two = folder / "1" / "7", folder / "2" / "7"
    (one / "1-7-0000.flac").unlink()  # a transcript without audio
    (one / "1-7-0009.flac").write_bytes(b"x")  # audio without a transcript
    (one / "1-7-0001.wav").write_bytes(b"x")  # the same id twice
    trans = two / "2-7.trans.txt"
    lines = trans.read_text().splitlines()
    lines[1] = "2-7-0001 "
    trans.write_text("\n".join([*lines, "2-7-0002 ANOTHER"]))
    (two / "2-7-0003.mp3").write_bytes(b"x")
    (folder / "stray.flac").write_bytes(b"x")
    (two / "2-7-0004.flac").symlink_to(tmp_path / "nowhere.flac")
    trans.write_text(trans.read_text() + "\n2-7-0004 LINKED\n")
    (two / "._2-7-0002.flac").write_bytes(b"hidden")
    (two / "notes.txt").write_text("no audio")
    listing = list_set("test", [folder])
    assert [one.id for one in listing.recordings] == [
        "1-7-0001", "1-7-0002", "1-7-0003", "2-7-0000", "2-7-0002", "2-7-0003",
    ]  # fmt: skip
    assert sorted(found(listing)) == sorted([
        ("1-7.trans.txt:1", "no-audio"),
        ("1-7-0009.flac", "no-transcript"),
        ("1-7-0001.wav", "duplicate-id"),
        ("2-7.trans.txt:2", "empty-transcript"),
        ("2-7.trans.txt:5", "duplicate-id"),
        ("2-7-0003.mp3", "format"),
        ("stray.flac", "layout"),
        ("2-7-0004.flac", "missing"),
    ])  # fmt: skip
    assert {one.kind for one in listing.problems} <= set(KINDS)
    assert listing.files == 6 + 8
    duplicate = next(p for p in listing.problems if p.file.endswith("1-7-0001.wav"))
    assert duplicate.what == f"expected a new id, found it before: {one / '1-7-0001.flac'}"


def test_ids_are_unique_over_the_folders_of_a_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_split(tmp_path / name, 2)
    listing = list_set("train", [tmp_path / "a", tmp_path / "b"])
    assert len(listing.recordings) == 2
    assert count_kinds(listing.problems) == {"duplicate-id": 2}


def test_all_or_no_transcripts(tmp_path: Path) -> None:
    write_split(tmp_path / "a", 4, transcripts=False)
    listing = list_set("noise", [tmp_path / "a"])
    assert [one.text for one in listing.recordings] == [None] * 4
    assert not listing.has_transcripts
    assert listing.problems == []
    # One folder without, joined with one that has: its files lack theirs.
    write_split(tmp_path / "b", 2, speakers=1, first=5)
    listing = list_set("noise", [tmp_path / "a", tmp_path / "b"])
    assert len(listing.recordings) == 2
    assert count_kinds(listing.problems) == {"no-transcript": 4}


def test_transcripts_in_another_encoding(tmp_path: Path) -> None:
    write_split(tmp_path / "a", 4)
    (tmp_path / "a" / "1" / "7" / "1-7.trans.txt").write_bytes("1-7-0000 ÜBER".encode("latin-1"))
    listing = list_set("test", [tmp_path / "a"])
    assert len(listing.recordings) == 2
    assert count_kinds(listing.problems) == {"unreadable": 1, "no-transcript": 2}


def test_names_that_no_table_has(tmp_path: Path) -> None:
    paths = write_split(tmp_path / "a", 2, transcripts=False)
    paths[0].rename(paths[0].with_name("a\tb.flac"))
    listing = list_set("noise", [tmp_path / "a"])
    assert count_kinds(listing.problems) == {"layout": 1}


def test_folders_of_another_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a split folder .* found nothing"):
        list_set("test", [tmp_path / "none"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="found a file"):
        list_set("test", [tmp_path / "file"])
    write_split(tmp_path / "LibriSpeech" / "dev-clean", 2)
    with pytest.raises(InputError, match=r"another depth.*it has dev-clean: give one of these"):
        list_set("test", [tmp_path / "LibriSpeech"])
    with pytest.raises(InputError, match="another depth"):
        list_set("test", [tmp_path / "LibriSpeech" / "dev-clean" / "1"])


def test_problems_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "problems.tsv"
    assert read_problems(path) == []
    problems = [Problem("a", "x y.flac", "rate", "expected 1"), Problem("b", "z", "empty", "é")]
    write_problems(path, problems)
    assert read_problems(path) == problems
    write_problems(path, [Problem("a", "x\ty\n.flac", "rate", "w")])
    assert read_problems(path) == [Problem("a", "x y .flac", "rate", "w")]
    write_problems(path, [])
    assert read_problems(path) == []
    path.write_text("something\n")
    with pytest.raises(InputError, match="expected the columns set, file"):
        read_problems(path)


@pytest.mark.parametrize(
    ("text", "problems", "files", "allowed"),
    [
        ("0", 0, 5, True), ("0", 1, 5, False), ("3", 3, 5, True), ("3", 4, 500, False),
        ("1%", 1, 100, True), ("1%", 1, 99, False), ("0%", 0, 9, True), ("100%", 9, 9, True),
    ],
)  # fmt: skip
def test_tolerance(text: str, problems: int, files: int, allowed: bool) -> None:
    assert Tolerance.parse(text).allows(problems, files) is allowed


@pytest.mark.parametrize("text", ["-1", "x", "", "101%", "-1%", "%", "1.5"])
def test_no_tolerance(text: str) -> None:
    with pytest.raises(ValueError):
        Tolerance.parse(text)


@pytest.mark.data
@needs_data
def test_real_folders_have_no_problems() -> None:
    sizes = {"an4/LibriSpeech/train-an4": 857, "fsdd_strings/LibriSpeech/train-fsdd": 764,
             "kerstin_de/LibriSpeech/ood-german": 150}  # fmt: skip
    for folder, size in sizes.items():
        listing = list_set("test", [DATA / folder])
        assert (len(listing.recordings), listing.problems) == (size, [])
