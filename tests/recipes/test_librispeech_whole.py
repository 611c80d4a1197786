"""The LibriSpeech recipe's smoke run, whole: a small folder in, averaged teachers, report out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.an4.tones import STRANGE_VOICE, draw_tones
from recipes.common.audio import write_split
from recipes.common.recipe import REPOSITORY
from seqdistill.hypotheses import read_hypotheses

pytestmark = pytest.mark.slow

SYSTEMS = ("ensemble", "end", "proxy")
SETS = ("test_other", "ami", "noise5")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str, str]:
    """The work folder of a finished run, its command, and what it printed."""
    for module in ("fairseq", "torchaudio", "soundfile"):
        pytest.importorskip(module, reason="needs the extras seqdistill[fairseq,speech]")
    folder = tmp_path_factory.mktemp("librispeech")
    splits = folder / "LibriSpeech"
    # Speakers of their own, as LibriSpeech has them.
    for name, count in (("train-clean-100", 40), ("dev-clean", 6), ("test-clean", 6)):
        write_split(splits / name, draw_tones(count, 1, name))
    write_split(splits / "train-other-500", draw_tones(20, 1, "more", {"other": 0.9}))
    write_split(splits / "test-other", draw_tones(6, 1, "other", STRANGE_VOICE))
    write_split(folder / "ami", draw_tones(6, 1, "ami", {"far": 3.0}))
    work = folder / "work"
    command = ["bash", "recipes/librispeech/run.sh", "--smoke", "--data", str(folder)]
    command += ["--set", f"data.options.ami={folder / 'ami'}", "--work-dir", str(work)]
    done = run(command)
    assert done.returncode == 0, done.stderr
    return work, command, done.stdout, done.stderr


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_table_says_what_is_left_out(whole: tuple[Path, list[str], str, str]) -> None:
    work, _, printed, told = whole
    for text in ("# LibriSpeech's recipe at its smallest", "WER", "ensemble of 2"):
        assert text in printed
    note = "The set common_voice_fr is left out: data.options.common_voice_fr names no folder"
    assert note in printed
    assert "! the set common_voice_fr is left out" in told
    assert "set ami is left out" not in printed
    assert note[8:] not in (work / "results.json").read_text()  # there it has a key of its own
    assert "common_voice_fr: data.options" in (work / "report.html").read_text(encoding="utf-8")


def test_every_set_is_measured(whole: tuple[Path, list[str], str, str]) -> None:
    results = json.loads((whole[0] / "results.json").read_text(encoding="utf-8"))
    assert list(results["left_out"]) == ["common_voice_fr"]
    for name in SYSTEMS:
        system = results["systems"][name]
        assert set(system["quality"]) == {"test", *SETS}
        assert all(system["quality"][one]["rates"]["wer"]["value"] > 0 for one in SETS)
        assert {entry["set"] for entry in system["ood"]} == set(SETS)
        hypotheses = list(read_hypotheses(whole[0] / "decode" / name / "ami.jsonl"))
        assert len(hypotheses) == 6


def test_teachers_are_the_means_of_their_last_checkpoints(
    whole: tuple[Path, list[str], str, str],
) -> None:
    folder = whole[0] / "teachers" / "teacher1"
    kept = sorted(folder.glob("checkpoint[0-9]*.pt"))
    assert len(kept) == 2
    first, second, mean = (
        torch.load(path, weights_only=False)["model"]["decoder.embed_tokens.weight"]
        for path in (*kept, folder / "averaged.pt")
    )
    assert not torch.equal(first, second)
    torch.testing.assert_close(mean, ((first.double() + second.double()) / 2).float())
    (hypothesis, *_) = read_hypotheses(whole[0] / "decode" / "ensemble" / "test.jsonl")
    assert hypothesis.model.members == 2


def test_a_second_run_does_nothing(whole: tuple[Path, list[str], str, str]) -> None:
    again = run(whole[1])
    assert again.returncode == 0, again.stderr
    assert "0 of 28 steps run, 28 done before" in again.stderr
    assert again.stdout == whole[2]
