"""cache-info, cache-verify and the usage of cache-targets; without teachers."""

import json
from pathlib import Path

import pytest

from seqdistill.cli.main import main
from tests.unit.store_cases import contents, make_case, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(make_case(for_end2=True), tmp_path / "store")


def test_info(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache-info", str(store)]) == 0
    printed = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in printed.splitlines())
    assert rows["tokens"].strip() == "22"
    assert rows["teachers"].strip() == "3: 0.pt, 1.pt, 2.pt"
    assert rows["stored as"].strip() == "float16, with what end2 needs"
    assert rows["pieces a token"].strip() == "8"
    assert rows["made by"].strip() == "made 'by a test'"
    assert main(["cache-info", str(store), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["tokens"], record["sentences"], record["shards"]) == (22, 7, 3)
    sizes = {name: len(data) for name, data in contents(store).items()}
    assert record["bytes"] == sum(sizes.values()) - sizes["plan.json"] - sizes["manifest.json"]
    assert record["settings"]["top_k"] == 8


def test_info_of_an_adaptive_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_store(make_case(tail_bound=0.1), tmp_path / "store")
    assert main(["cache-info", str(folder)]) == 0
    assert "(tail at most 0.1, at most 40)" in capsys.readouterr().out


def test_verify_says_what_is_bad_and_how_to_repair_it(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache-verify", str(store)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "5 files, all as they were written" in captured.err
    shard = store / "shards" / "00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (store / "shards" / "00002.safetensors").unlink()
    assert main(["cache-verify", str(store)]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert all("repeat the command that made the store" in line for line in lines)
    assert [name in "".join(lines) for name in ("00000.", "00001.", "00002.")] == [
        False, True, True,
    ]  # fmt: skip
    assert "2 of 5 files are bad" in captured.err


@pytest.mark.parametrize("verb", ["cache-info", "cache-verify"])
def test_no_store(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"seqdistill {verb}: error: {tmp_path}: no target store" in captured.err


@pytest.mark.parametrize("verb", ["cache-targets", "cache-info", "cache-verify"])
def test_help_ends_in_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"seqdistill {verb} " in printed[printed.index("example:") :]
    assert "(default: None)" not in printed


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--top-k", "0"],
        ["--top-k", "8", "--tail-mass", "0.1"],
        ["--targets", "dreams"],
        ["--workers", "0"],
        ["--store-dtype", "float64"],
    ],
)
def test_wrong_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fixed = ["cache-targets", "data-bin", "--ensemble-paths", "a.pt:b.pt"]
    if options:
        fixed += ["--output", "store"]
    assert main([*fixed, *options]) == 2
    assert "usage: seqdistill cache-targets" in capsys.readouterr().err
