"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from seqdistill.errors import InputError
from seqdistill.files import atomic_write


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "made" / "on" / "demand.txt"
    with atomic_write(target) as handle:
        handle.write("zähl α\n")
        handle.flush()
        assert not target.exists()
        assert (target.parent / "demand.txt.part").exists()
    assert target.read_bytes() == "zähl α\n".encode()
    assert [path.name for path in target.parent.iterdir()] == ["demand.txt"]


def test_a_crash_leaves_the_old_file_and_the_part(tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as handle:
        handle.write(f"half{1 / (handle.write('half') - 4)}")
    assert target.read_text() == "old"
    assert (tmp_path / "scores.json.part").read_text() == "half"
    # And the next attempt starts anew.
    with atomic_write(str(target)) as handle:
        handle.write("new")
    assert target.read_text() == "new"
    assert not (tmp_path / "scores.json.part").exists()


def test_an_existing_file_is_kept_unless_overwriting(tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    target.write_text("old")
    with (
        pytest.raises(InputError, match=r"scores\.json exists already; pass --overwrite"),
        atomic_write(target, overwrite=False) as handle,
    ):
        handle.write("new")
    assert target.read_text() == "old"
    assert not (tmp_path / "scores.json.part").exists()
    with atomic_write(tmp_path / "other", overwrite=False) as handle:
        handle.write("first")
    assert (tmp_path / "other").read_text() == "first"


def test_binary_files(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "array.bin", binary=True) as handle:
        handle.write(b"\x00\xff\r\n")
    assert (tmp_path / "array.bin").read_bytes() == b"\x00\xff\r\n"


def test_names_with_several_dots_keep_them_all(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.b.jsonl") as handle:
        handle.write("x")
        assert (tmp_path / "a.b.jsonl.part").exists()
    assert (tmp_path / "a.b.jsonl").exists()
