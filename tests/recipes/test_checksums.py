"""What nobody publishes a checksum of is noted at the first download and stays the same."""

import hashlib
from pathlib import Path

import pytest

from recipes.common.checksums import NAME, Checksums, Entry
from recipes.common.download import RemoteFile
from seqdistill.errors import InputError

URL = "http://somewhere/a.tgz"


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    file = RemoteFile(URL, 5, None)
    assert Checksums(tmp_path).read() == {}
    assert Checksums(tmp_path).expected(file) == file


def test_the_first_download_is_what_later_ones_have_to_be(tmp_path: Path) -> None:
    Checksums(tmp_path).note("a.tgz", Entry(URL, 5, "abc"))
    record = Checksums(tmp_path)
    assert record.expected(RemoteFile(URL, 5, None)).sha256 == "abc"
    assert record.expected(RemoteFile("http://elsewhere/a.tgz", 5, None)).sha256 == "abc"
    with pytest.raises(InputError, match="another file than at the first download"):
        record.expected(RemoteFile(URL, 6, None))
    with pytest.raises(InputError, match="SHA-256 abc; expected now are 5 bytes, SHA-256 def"):
        record.expected(RemoteFile(URL, 5, "def"))


def test_a_download_that_has_not_ended_has_its_size_already(tmp_path: Path) -> None:
    record = Checksums(tmp_path)
    record.note("a.tgz", Entry(URL, 5))
    assert record.expected(RemoteFile(URL, 5, None)).sha256 is None
    with pytest.raises(InputError, match="another file"):
        record.expected(RemoteFile(URL, 4, None))


def test_unpacked_files_that_changed(tmp_path: Path) -> None:
    contents = {"a/one": b"1", "a/two": b"2", "a/three": b"3"}
    (tmp_path / "a").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    record = Checksums(tmp_path)
    record.note("a.tgz", Entry(URL, 5, "abc", files=files))
    assert record.changed() == []
    (tmp_path / "a/one").write_bytes(b"other")
    (tmp_path / "a/three").unlink()
    assert record.changed() == [
        f"{tmp_path}/a/one: not what was unpacked",
        f"{tmp_path}/a/three: missing",
    ]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema": "other/1", "archives": {}}',
                '{"schema": "seqdistill.checksums/1", "archives": {"a": {"color": 1}}}'],
)  # fmt: skip
def test_a_damaged_record_is_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(InputError, match=NAME):
        Checksums(tmp_path).note("a.tgz", Entry(URL, 5))
    assert (tmp_path / NAME).read_text() == content
