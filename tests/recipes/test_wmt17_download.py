"""The download command of WMT17: never unasked, checked by what is published or was noted."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.wmt17_en_de import download
from recipes.wmt17_en_de.archives import ARCHIVES, CORPORA, Archive
from recipes.wmt17_en_de.download import main, space_needed
from tests.recipes.file_server import Served, serve

RAPID, KHRESMOI = ARCHIVES["rapid2016"], ARCHIVES["khresmoi"]


def packed(archive: Archive, inside: str, mark: str = "") -> bytes:
    """An archive as the task's: the wanted files, in a folder or not, among others."""
    stream = io.BytesIO()
    names = [pattern.replace("*", inside) for pattern in archive.files.values()]
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name in (*names, f"{inside}other.fr-en.fr"):
            content = f"content of {name} {mark}".encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two small archives, one with a published checksum, and what a server has."""
    rapid, khresmoi = packed(RAPID, ""), packed(KHRESMOI, "khresmoi-summary-test-set/")
    sha256 = hashlib.sha256(rapid).hexdigest()
    archives = {
        "rapid2016": replace(RAPID, size=len(rapid), sha256=sha256, unpacked=100),
        "khresmoi": replace(KHRESMOI, unpacked=100),
    }
    monkeypatch.setattr(download, "ARCHIVES", archives)
    return {f"/{RAPID.name}": rapid, f"/{KHRESMOI.name}": khresmoi}


def given(folder: Path, served: Served, *more: str) -> list[str]:
    addresses = {"rapid2016": RAPID.name, "khresmoi": KHRESMOI.name}
    servers = [f"--server={name}={served.url}/{file}" for name, file in addresses.items()]
    return [str(folder), "--only", "rapid2016", "khresmoi", *servers, *more]


def test_nothing_is_downloaded_unasked(
    tmp_path: Path, small: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(Served(small)) as served:
        assert main(given(tmp_path / "data", served)) == 2
        assert served.asked == []
    assert not (tmp_path / "data").exists()
    told = capsys.readouterr()
    assert "size unknown" in told.out
    assert "the same command with --yes does it" in told.err


def test_what_nobody_publishes_is_noted_once_and_compared_ever_after(
    tmp_path: Path, small: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(Served(small)) as served:
        assert main(given(tmp_path, served, "--yes")) == 0
        assert main(given(tmp_path, served, "--yes")) == 0
        assert "nothing to download" in capsys.readouterr().out
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert [name for name in found if not name.startswith(".")] == [
        "checksums.json",
        *(f"khresmoi/{part}.{side}.sgm" for part in ("dev", "test") for side in ("de", "en")),
        "rapid2016/train.de",
        "rapid2016/train.en",
    ]
    text = (tmp_path / "rapid2016/train.en").read_text()
    assert text == "content of rapid2016.de-en.en "
    record = json.loads((tmp_path / "checksums.json").read_text())["archives"]
    sums = {name: hashlib.sha256(small[f"/{name}"]).hexdigest() for name in record}
    assert {name: entry["sha256"] for name, entry in record.items()} == sums
    assert {name: entry["published"] for name, entry in record.items()} == {
        RAPID.name: True, KHRESMOI.name: False,
    }  # fmt: skip

    # The folder is lost, and the server has changed the archive: same size, other content.
    for path in (tmp_path / "khresmoi").iterdir():
        path.unlink()
    (tmp_path / "khresmoi").rmdir()
    changed = bytearray(small[f"/{KHRESMOI.name}"])
    changed[-1] ^= 1
    with serve(Served({**small, f"/{KHRESMOI.name}": bytes(changed)})) as served:
        assert main(given(tmp_path, served, "--yes")) == 1
    assert f"expected content of SHA-256 {sums[KHRESMOI.name]}" in capsys.readouterr().err
    assert not (tmp_path / "khresmoi").exists()
    with serve(Served(small)) as served:
        assert main(given(tmp_path, served, "--yes")) == 0


def test_an_archive_that_is_not_the_published_one(
    tmp_path: Path, small: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = bytearray(small[f"/{RAPID.name}"])
    wrong[50] ^= 1
    with serve(Served({**small, f"/{RAPID.name}": bytes(wrong)})) as served:
        assert main(given(tmp_path, served, "--yes")) == 1
    assert "expected content of SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "rapid2016").exists()


def test_a_download_that_broke_off_goes_on(tmp_path: Path, small: dict[str, bytes]) -> None:
    # The first request asks for the size of the one whose size nobody knows; 40 bytes of it come.
    only = ["--only", "khresmoi"]
    with serve(Served(small, cut_after=[1, 40])) as served:
        address = f"--server=khresmoi={served.url}/{KHRESMOI.name}"
        assert main([str(tmp_path), *only, address, "--yes"]) == 0
        assert served.asked == ["bytes=0-0", None, "bytes=40-"]


def test_what_was_unpacked_can_be_checked(
    tmp_path: Path, small: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--check"]) == 1
    assert "expected the record of a download, found none" in capsys.readouterr().err
    with serve(Served(small)) as served:
        assert main(given(tmp_path, served, "--yes")) == 0
    assert main([str(tmp_path), "--check"]) == 0
    (tmp_path / "rapid2016/train.de").write_text("other")
    assert main([str(tmp_path), "--check"]) == 1
    told = capsys.readouterr()
    assert "5 of 6 files" in told.out
    assert "rapid2016/train.de: not what was unpacked" in told.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "rapid2017"], "unknown archive rapid2017 in --only; did you mean rapid2016?"),
        (["--server", "rapid2016", "--yes"], "--server expects NAME=URL, got 'rapid2016'"),
        (["--server", "rapid=http://x/y", "--yes"], "unknown archive rapid in --server"),
        (["--server", "rapid2016=http://x/y", "--yes"], "expected the address of a file rapid2016"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "new"), *more]) == 1
    assert message in capsys.readouterr().err


def test_room_that_is_needed(tmp_path: Path) -> None:
    giga = 10**9
    archives = {
        "one": Archive("", "http://x/one.tgz", 2 * giga, "", 3 * giga),
        "two": Archive("", "http://x/two.tgz", None, None, 1 * giga),
    }
    # The first archive with its content; then its content, with the second and 10 MB for it.
    assert space_needed(tmp_path, archives, keep_archives=False) == 5 * giga
    assert space_needed(tmp_path, archives, keep_archives=True) == 6 * giga + 10_000_000
    with open(tmp_path / "one.tgz.part", "wb") as handle:
        handle.truncate(giga)
    assert space_needed(tmp_path, archives, keep_archives=True) == 5 * giga + 10_000_000


def test_a_disk_that_is_too_small_stops_it_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = {"rapid2016": replace(RAPID, size=1 << 60)}
    monkeypatch.setattr(download, "ARCHIVES", huge)
    assert main([str(tmp_path), "--only", "rapid2016", "--yes"]) == 1
    assert "are free; nothing was started" in capsys.readouterr().err


def test_all_archives() -> None:
    assert set(CORPORA) < set(ARCHIVES)
    known = [archive for archive in ARCHIVES.values() if archive.sha256]
    assert sum(archive.size or 0 for archive in known) == 1_944_240_362
    assert all(len(bytes.fromhex(archive.sha256 or "")) == 32 for archive in known)
    assert len({archive.sha256 for archive in known}) == len(known) == 5
    assert all(archive.url.startswith("https://") for archive in ARCHIVES.values())
    for archive in ARCHIVES.values():
        assert not any("/" in name for name in archive.files)
