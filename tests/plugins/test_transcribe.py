"""``seqdistill transcribe``: audio to text as fairseq-generate makes it, with an alarm."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.corpus import run
from tests.plugins.speech_corpus import RATE, SpeechCorpus, generate_speech, tones, write_audio


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_is_what_fairseq_generate_decodes(speech: SpeechCorpus, tmp_path: Path) -> None:
    """A folder and files; a file that is none is named, and the others are transcribed."""
    generated = tmp_path / "generated.jsonl"
    result = generate_speech(speech, speech.ensemble_paths, generated, "--beam", 3, "--nbest", 2)
    assert result.returncode == 0, result.stderr
    expected = {(r["source"], r["rank"]): r for r in records(generated)}

    folder = tmp_path / "audio" / "deep"
    folder.mkdir(parents=True)
    for number in range(6):
        name = f"test-{number}.wav"
        shutil.copy(speech.data / "audio" / name, folder / name)
    (folder / "test-3x.wav").write_bytes(b"RIFF and nothing more")
    output = tmp_path / "out.jsonl"
    options = ["--path", speech.ensemble_paths, "--data", speech.data, "--beam", 3, "--cpu"]
    result = run(
        "seqdistill", "transcribe", speech.data / "audio" / "test-6.wav", folder.parent, *options,
        "--nbest", 2, "--max-len", 8, "--batch-size", 3, "--output", output, "--threshold", 0.1,
    )  # fmt: skip
    assert result.returncode == 1
    assert "left out" in result.stderr
    assert "test-3x.wav" in result.stderr
    assert "1 of 8 files could not be read" in result.stderr
    found = records(output)
    assert [r["id"] for r in found] == [n for n in (0, 1, 2, 3, 4, 6, 7) for _ in range(2)]
    for record in found:
        other = expected[Path(str(record["source"])).stem, record["rank"]]
        assert record["text"] == other["text"]
        assert record["uncertainty"] == pytest.approx(other["uncertainty"], abs=1e-4)
        assert record["reference"] is None
        assert record["ood"] is (record["uncertainty"]["joint_total_uncertainty_pe"] > 0.1)

    # Its own output calibrates the alarm: at a rate of 0 nothing in it is out of domain.
    again = tmp_path / "again.jsonl"
    result = run(
        "seqdistill", "transcribe", folder / "test-1.wav", *options, "--nbest", 2, "--max-len", 8,
        "--calibrate", output, "--false-positive-rate", 0, "--output", again,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert {r["ood"] for r in records(again)} == {False}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("nowhere.wav", [], "nowhere.wav: no such file or folder"),
        ("empty", [], "empty: no audio (.flac, .wav, .ogg) in this folder"),
        ("fast.wav", ["--data", "."], "config.yaml: no such file; expected a folder that"),
        ("fast.wav", ["--path", "none.pt"], "none.pt: no such checkpoint"),
        ("fast.wav", ["--nbest", "9"], "--nbest 9: a beam of 5 finds no more than that"),
    ],
)
def test_bad_input(
    speech: SpeechCorpus, tmp_path: Path, given: str, options: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_audio(tmp_path / "fast.wav", tones(["ONE"], random.Random(1)), 2 * RATE)
    result = run(
        "seqdistill", "transcribe", tmp_path / given, "--path", speech.teachers[0],
        "--data", speech.data, "--cpu", *options,
    )  # fmt: skip
    assert result.returncode in (1, 2)
    assert message in result.stderr


def test_another_sampling_rate_is_left_out(speech: SpeechCorpus, tmp_path: Path) -> None:
    write_audio(tmp_path / "slow.wav", tones(["ONE"], random.Random(1)), RATE // 2)
    result = run(
        "seqdistill", "transcribe", tmp_path / "slow.wav", "--path", speech.teachers[0],
        "--data", speech.data, "--cpu",
    )  # fmt: skip
    assert result.returncode == 1
    assert "slow.wav" in result.stderr
    assert "8000" in result.stderr
    assert result.stdout == ""


def test_distances_from_the_training_data(speech: SpeechCorpus, tmp_path: Path) -> None:
    """Densities fitted on prepared speech; the tones of training are nearer than mere noise."""
    density = tmp_path / "density.safetensors"
    result = run(
        "seqdistill", "fit-features", speech.data, "--config-yaml", "config.yaml", "--path",
        speech.teachers[0], "--background", speech.data, "--background-subset", "test",
        "--output", density, "--cpu",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "in-domain encoder, 24 sentences, 16 features" in result.stderr
    noise = np.random.default_rng(1).normal(0, 0.2, RATE).astype(np.float32)
    write_audio(tmp_path / "noise.wav", noise)
    output = tmp_path / "out.jsonl"
    result = run(
        "seqdistill", "transcribe", tmp_path / "noise.wav", speech.data / "audio" / "train-0.wav",
        "--path", speech.teachers[0], "--data", speech.data, "--cpu", "--feature-density", density,
        "--measure", "mahalanobis_encoder", "--output", output,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    far, near = (record["uncertainty"] for record in records(output))
    assert far["mahalanobis_encoder"] > 2 * near["mahalanobis_encoder"]
    assert "relative_mahalanobis_decoder" in near
    result = run(
        "seqdistill", "fit-features", speech.data, "--config-yaml", "config.yaml", "--path",
        speech.teachers[0], "--gen-subset", "foreign", "--output", tmp_path / "x", "--cpu",
    )  # fmt: skip
    assert result.returncode == 1
    assert "no transcripts; densities need a set that has them" in result.stderr
