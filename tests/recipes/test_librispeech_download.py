"""LibriSpeech's command for downloads: never unasked, and what is there stays."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from recipes.common.download import check_space
from recipes.librispeech import download
from recipes.librispeech.download import SPLITS, Split, get, main, remote_file, space_needed
from seqdistill.errors import InputError
from tests.recipes.file_server import Served, serve


def archive(name: str) -> bytes:
    """An archive as OpenSLR's: a split in a folder that holds a licence, too."""
    stream = io.BytesIO()
    files = {
        "LibriSpeech/LICENSE.TXT": b"CC BY 4.0",
        f"LibriSpeech/{name}/84/1/84-1-0000.flac": name.encode() * 1000,
        f"LibriSpeech/{name}/84/1/84-1.trans.txt": b"84-1-0000 WORDS",
    }
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two splits that are small; the table of checksums is of these."""
    contents = {f"/{name}.tar.gz": archive(name) for name in ("dev-clean", "test-clean")}
    splits = {
        path[1:-7]: Split(5.4, len(content), hashlib.sha256(content).hexdigest())
        for path, content in contents.items()
    }
    monkeypatch.setattr(download, "SPLITS", splits)
    return contents


def test_nothing_is_downloaded_unasked(
    tmp_path: Path, small: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(tmp_path / "data"), "--splits", "dev-clean", "test-clean"]
    with serve(Served(small)) as served:
        assert main([*given, "--server", served.url]) == 2
        assert served.asked == []
    assert not (tmp_path / "data").exists()
    told = capsys.readouterr()
    assert "dev-clean           5.4 h    0.0 GB" in told.out
    assert "together           10.8 h" in told.out
    assert "the same command with --yes does it" in told.err


def test_splits_are_downloaded_and_unpacked(
    tmp_path: Path, small: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(tmp_path), "--splits", "dev-clean", "test-clean"]
    # The second archive is not there yet: the first split is kept.
    with serve(Served({"/dev-clean.tar.gz": small["/dev-clean.tar.gz"]})) as served:
        assert main([*given, "--yes", "--server", served.url]) == 1
    assert "404 Not Found" in capsys.readouterr().err
    with serve(Served(small)) as served:
        more = ["--yes", "--keep-archives", "--server", served.url + "/"]
        assert main([*given, *more]) == 0
        assert len(served.asked) == 1
        assert main([*given, *more]) == 0
        assert len(served.asked) == 1
    assert "nothing to download" in capsys.readouterr().out
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert [name for name in found if not name.startswith(".")] == [
        "LibriSpeech/LICENSE.TXT",
        "LibriSpeech/dev-clean/84/1/84-1-0000.flac",
        "LibriSpeech/dev-clean/84/1/84-1.trans.txt",
        "LibriSpeech/test-clean/84/1/84-1-0000.flac",
        "LibriSpeech/test-clean/84/1/84-1.trans.txt",
        "test-clean.tar.gz",
    ]


def test_splits_that_do_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--splits", "dev-claen", "--yes"]) == 1
    assert "unknown split dev-claen in --splits; did you mean dev-clean?" in capsys.readouterr().err


def test_room_that_is_needed(tmp_path: Path) -> None:
    gigabyte = 10**9
    splits = {"a": Split(1, 10 * gigabyte, ""), "b": Split(1, 20 * gigabyte, "")}
    # With every archive removed once it is unpacked: 11 of a, then archive and content of b.
    assert space_needed(tmp_path, splits, keep_archives=False) == (11 + 20 + 22) * gigabyte
    assert space_needed(tmp_path, splits, keep_archives=True) == (10 + 11 + 20 + 22) * gigabyte
    # The larger one first: it decides alone.
    turned = {"b": splits["b"], "a": Split(1, gigabyte, "")}
    assert space_needed(tmp_path, turned, keep_archives=False) == (20 + 22) * gigabyte
    # What has been downloaded is on the disk already.
    with open(tmp_path / "b.tar.gz.part", "wb") as handle:
        handle.truncate(15 * gigabyte)
    assert space_needed(tmp_path, turned, keep_archives=False) == (5 + 22) * gigabyte


def test_a_disk_that_is_too_small_stops_it_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "SPLITS", {"huge": Split(1.0, 1 << 60, "")})
    assert main([str(tmp_path), "--splits", "huge", "--yes"]) == 1
    assert "are free; nothing was started" in capsys.readouterr().err
    with pytest.raises(InputError, match="nothing was started"):
        get(tmp_path, {"huge": Split(1.0, 1 << 60, "")}, server="http://127.0.0.1:9")


def test_all_of_librispeech() -> None:
    assert sum(split.size for split in SPLITS.values()) == 61_357_943_031
    train = [split.hours for name, split in SPLITS.items() if name.startswith("train")]
    assert sum(train) == pytest.approx(960.9)
    assert len({split.sha256 for split in SPLITS.values()}) == 7
    assert all(len(bytes.fromhex(split.sha256)) == 32 for split in SPLITS.values())
    file = remote_file("dev-clean", SPLITS["dev-clean"])
    assert file.url == "https://www.openslr.org/resources/12/dev-clean.tar.gz"
    assert file.name == "dev-clean.tar.gz"
    check_space(Path.cwd(), 1)


def test_checksums_are_torchaudios() -> None:
    module = pytest.importorskip("torchaudio.datasets.librispeech")
    sums = {url.rpartition("/")[2]: sha256 for url, sha256 in module._CHECKSUMS.items()}
    assert sums == {f"{name}.tar.gz": split.sha256 for name, split in SPLITS.items()}
