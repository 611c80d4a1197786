"""Downloads from a real server: resumed, checked, whole or not there."""

import hashlib
import io
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recipes.common.download import RemoteFile, check_space, download, remote_size
from recipes.common.recipe import REPOSITORY
from recipes.common.unpack import unpack, unpack_files
from seqdistill.errors import InputError
from tests.recipes.file_server import Served, serve

CONTENT = random.Random(5).randbytes(300_000)


class Count:
    """A progress bar that adds up."""

    def __init__(self, done: int = 0) -> None:
        self.done = done

    def update(self, n: int) -> None:
        self.done += n


@contextmanager
def bars(what: str, total: int, done: int) -> Iterator[Count]:
    bar = Count(done)
    yield bar
    assert bar.done == total, what


def remote(served: Served, content: bytes = CONTENT, name: str = "a.bin") -> RemoteFile:
    sha256 = hashlib.sha256(content).hexdigest()
    return RemoteFile(f"{served.url}/{name}", len(content), sha256)


def get(file: RemoteFile, folder: Path, tries: int = 3) -> Path:
    return download(file, folder, bars=bars, tries=tries, wait=0.0, timeout=5)


def test_a_file_comes_once(tmp_path: Path) -> None:
    with serve(Served({"/a.bin": CONTENT})) as served:
        path = get(remote(served), tmp_path / "new")
        assert path.read_bytes() == CONTENT
        assert get(remote(served), tmp_path / "new") == path
    assert served.asked == [None]
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]


def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    with serve(Served({"/a.bin": CONTENT}, cut_after=[100_000, 50_000])) as served:
        assert get(remote(served), tmp_path).read_bytes() == CONTENT
    assert served.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_breaks_with_progress_between_them_are_not_counted(tmp_path: Path) -> None:
    with serve(Served({"/a.bin": CONTENT}, cut_after=[10_000] * 8)) as served:
        assert get(remote(served), tmp_path, tries=2).read_bytes() == CONTENT
    assert len(served.asked) == 9


def test_what_an_earlier_process_left_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:123_456])
    with serve(Served({"/a.bin": CONTENT})) as served:
        assert get(remote(served), tmp_path).read_bytes() == CONTENT
    assert served.asked == ["bytes=123456-"]


def test_all_bytes_may_be_there_before_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    with serve(Served({})) as served:
        assert get(remote(served), tmp_path).read_bytes() == CONTENT
    assert served.asked == []


def test_a_server_without_ranges_sends_everything_again(tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    with serve(Served({"/a.bin": CONTENT}, with_ranges=False)) as served:
        assert get(remote(served), tmp_path).read_bytes() == CONTENT
    assert served.asked == ["bytes=1000-"]


def test_a_server_that_stumbles_is_asked_again(tmp_path: Path) -> None:
    with serve(Served({"/a.bin": CONTENT}, trouble=[503, 429])) as served:
        assert get(remote(served), tmp_path).read_bytes() == CONTENT
    assert len(served.asked) == 3


def test_giving_up_keeps_what_came_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    with (
        serve(Served({"/a.bin": CONTENT}, cut_after=[0] * 9)) as served,
        pytest.raises(InputError, match=r"broke off, 3 times in a row\. 1,000 of 300,000 bytes"),
    ):
        get(remote(served), tmp_path)
    assert len(served.asked) == 3
    with pytest.raises(InputError, match=r"no connection .* 3 times in a row"):
        get(remote(served), tmp_path)
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:1000]


def test_wrong_content_is_kept_aside_and_the_next_try_is_afresh(tmp_path: Path) -> None:
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with serve(Served({"/a.bin": wrong})) as served:
        file = remote(served)
        for number in (1, 2):
            with pytest.raises(InputError, match=rf"SHA-256 {file.sha256}, got .*damaged{number}"):
                get(file, tmp_path)
        served.files["/a.bin"] = CONTENT
        assert get(file, tmp_path).read_bytes() == CONTENT
    assert (tmp_path / "a.bin.damaged2").read_bytes() == wrong
    # A file that somebody else put there is checked as well.
    (tmp_path / "a.bin").write_bytes(b"short")
    with pytest.raises(InputError, match=r"5 bytes of 300,000"):
        get(file, tmp_path)


def test_another_file_is_refused_before_it_is_downloaded(tmp_path: Path) -> None:
    with serve(Served({"/a.bin": CONTENT + b"more"})) as served:
        with pytest.raises(InputError, match=r"of 300,000 bytes, the server has one of 300,004"):
            get(remote(served), tmp_path)
        (tmp_path / "a.bin.part").write_bytes(CONTENT[:10])
        with pytest.raises(InputError, match=r"of 300,000 bytes, the server has one of 300,004"):
            get(remote(served), tmp_path)
        with pytest.raises(InputError, match=r"the server says 404 Not Found"):
            get(remote(served, name="b.bin"), tmp_path)


SCRIPT = """
import sys
from contextlib import nullcontext
from pathlib import Path
from recipes.common.download import RemoteFile, download
class Bar:
    def update(self, n): pass
file = RemoteFile(sys.argv[1], int(sys.argv[2]), sys.argv[3])
download(file, Path(sys.argv[4]), bars=lambda *_: nullcontext(Bar()))
"""


def test_a_killed_process_is_continued(tmp_path: Path) -> None:
    content = CONTENT * 20
    with serve(Served({"/a.bin": content}, pause=0.01)) as served:
        file = remote(served, content)
        words = [file.url, str(file.size), file.sha256, str(tmp_path)]
        child = subprocess.Popen([sys.executable, "-c", SCRIPT, *words], cwd=REPOSITORY)
        part = tmp_path / "a.bin.part"
        while not (part.exists() and part.stat().st_size):
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        there = part.stat().st_size
        assert 0 < there < file.size
        served.pause = 0
        assert get(file, tmp_path).read_bytes() == content
    assert served.asked == [None, f"bytes={there}-"]


def test_a_file_that_nobody_vouches_for_has_its_size_checked(tmp_path: Path) -> None:
    with serve(Served({"/a.bin": CONTENT})) as served:
        file = RemoteFile(f"{served.url}/a.bin", len(CONTENT), None)
        assert get(file, tmp_path).read_bytes() == CONTENT
    (tmp_path / "a.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="expected content of 300,000 bytes, got SHA-256"):
        get(file, tmp_path)
    assert (tmp_path / "a.bin.damaged1").read_bytes() == b"short"


@pytest.mark.parametrize("with_ranges", [True, False])
def test_a_server_is_asked_for_a_size_only(with_ranges: bool) -> None:
    with serve(Served({"/a.bin": CONTENT}, with_ranges=with_ranges)) as served:
        assert remote_size(f"{served.url}/a.bin", timeout=5) == len(CONTENT)
        assert served.asked == ["bytes=0-0"]
        with pytest.raises(InputError, match="404 Not Found; name another server"):
            remote_size(f"{served.url}/other", timeout=5)
    with pytest.raises(InputError, match="no connection"):
        remote_size(f"{served.url}/a.bin", timeout=5)


def test_some_files_of_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("./deep/x.de-en.de", "y.de-en.en", "z.fr-en.fr", "z.fr-en.en"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    wanted = {"train.de": "*x.de-en.de", "train.en": "*.de-en.en"}
    made = unpack_files(archive, wanted, tmp_path / "corpora" / "a", bars=bars)
    assert {path.name: path.read_text() for path in made.iterdir()} == {
        "train.de": "./deep/x.de-en.de",
        "train.en": "y.de-en.en",
    }
    with pytest.raises(InputError, match="is there already; remove it to unpack"):
        unpack_files(archive, wanted, made, bars=bars)
    for pattern, found in (("*.cs", 0), ("*.de-en.*", 2)):
        with pytest.raises(InputError, match=rf"expected one file .* in it, found {found}"):
            unpack_files(archive, {"a": pattern}, tmp_path / "b", bars=bars)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "corpora"]
    archive.write_bytes(archive.read_bytes()[:700])
    with pytest.raises(InputError, match="damaged"):
        unpack_files(archive, wanted, tmp_path / "b", bars=bars)
    assert not (tmp_path / "b").exists()


def test_room_on_the_disk(tmp_path: Path) -> None:
    check_space(tmp_path, 5, free=5)
    with pytest.raises(InputError, match=r"200\.0 GB are needed, 61\.4 GB are free; nothing was"):
        check_space(tmp_path, 200_000_000_000, free=61_357_943_031)
    check_space(tmp_path / "not" / "there", 1)
    with pytest.raises(InputError, match="are free"):
        check_space(tmp_path / "not" / "there", 1 << 70)


def tar(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """Write an archive of files (bytes) and links (text: where to)."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def test_unpacking(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "a.tar.gz",
        ("L/LICENSE.TXT", b"new"), ("L/README.TXT", b"read"), ("./L/s/1/2/1-2-0.flac", CONTENT),
    )  # fmt: skip
    target = tmp_path / "to"
    (target / ".unpacking-a.tar.gz").mkdir(parents=True)
    (target / ".unpacking-a.tar.gz" / "left").write_bytes(b"by a killed process")
    (target / "L").mkdir()
    (target / "L" / "LICENSE.TXT").write_bytes(b"old")
    assert unpack(archive, "L/s", target, bars=bars) == target / "L" / "s"
    files = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file()}
    assert sorted(files) == ["L/LICENSE.TXT", "L/README.TXT", "L/s/1/2/1-2-0.flac"]
    assert files["L/s/1/2/1-2-0.flac"].read_bytes() == CONTENT
    assert files["L/LICENSE.TXT"].read_bytes() == b"old"
    with pytest.raises(InputError, match="is there already"):
        unpack(archive, "L/s", target, bars=bars)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../evil", b"x")], r"\.\./evil in it leads outside"),
        ([("L/s/../../../evil", b"x")], "leads outside"),
        ([("/tmp/evil", b"x")], "leads outside"),
        ([("L/s/link", "/etc/passwd")], "L/s/link in it is no file and no folder"),
        ([("L/other/a", b"x")], r"expected a folder L/s in it"),
        ([("L/s", b"x"), ("L/s/a", b"x")], "damaged"),
    ],
)
def test_archives_that_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes | str]], message: str
) -> None:
    archive = tar(tmp_path / "a.tar.gz", ("L/good", b"x"), *members)
    with pytest.raises(InputError, match=message):
        unpack(archive, "L/s", tmp_path / "to", bars=lambda *_: bars_that_stop())
    assert list((tmp_path / "to").iterdir()) == []
    assert not (tmp_path / "evil").exists()


@contextmanager
def bars_that_stop() -> Iterator[Count]:
    yield Count()


def test_damaged_archives(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar.gz", ("L/s/a", CONTENT)).read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], b"no archive", whole[:middle] + b"\xff" * 99 + whole[middle:]):
        (tmp_path / "a.tar.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged .*download it again"):
            unpack(tmp_path / "a.tar.gz", "L/s", tmp_path / "to", bars=lambda *_: bars_that_stop())
        assert list((tmp_path / "to").iterdir()) == []
