"""Speech decoded and scored by the real fairseq-generate: the same records as for text."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seqdistill.hypotheses import Hypothesis, read_hypotheses
from seqdistill.speech.features import load_features
from seqdistill.speech.manifest import read_manifest, write_manifest
from tests.plugins.corpus import USER_DIR, Corpus, run, train
from tests.plugins.speech_corpus import (
    ARCHITECTURE,
    RATE,
    SIZES,
    TASK,
    SpeechCorpus,
    generate_speech,
    save_teacher,
    train_speech,
)

CONFORMER = ["--arch", "s2t_conformer", *SIZES, "--depthwise-conv-kernel-size", "7"]
MEASURES = [
    "epkl", "total_uncertainty", "mutual_information", "reverse_mutual_information",
    "joint_reverse_mutual_information_ep",
]  # fmt: skip


def decoded(
    speech: SpeechCorpus, path: str | Path, output: Path, *options: object
) -> list[Hypothesis]:
    result = generate_speech(speech, path, output, *options)
    assert result.returncode == 0, result.stderr
    return sorted(read_hypotheses(output), key=lambda h: (h.id, h.rank))


@pytest.fixture(scope="module")
def student(speech: SpeechCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    result = train_speech(
        speech, folder, "--criterion", "proxy_dirichlet", "--ctc-weight", "0.3", "--max-update", 8
    )
    assert result.returncode == 0, result.stderr
    return folder / "checkpoint_last.pt"


def test_records_of_an_ensemble(speech: SpeechCorpus, tmp_path: Path) -> None:
    found = decoded(speech, speech.ensemble_paths, tmp_path / "o.jsonl", "--beam", 3, "--nbest", 2)
    assert [h.id for h in found] == [n for n in range(7) for _ in range(2)]
    assert {h.source for h in found} == {f"test-{n}" for n in range(7)}
    # As it was written: its second word is not in the dictionary.
    assert found[0].reference == "ONE UNHEARD"
    assert {h.model.kind for h in found} == {"ensemble"}
    assert set(MEASURES) - {"joint_reverse_mutual_information_ep"} <= set(found[0].uncertainty)


def test_sets_without_transcripts_have_measures_and_no_references(
    speech: SpeechCorpus, student: Path, tmp_path: Path
) -> None:
    found = decoded(speech, student, tmp_path / "o.jsonl", "--gen-subset", "foreign")
    assert len(found) == 5
    assert {h.reference for h in found} == {None}
    assert all(h.uncertainty["total_uncertainty"] > 0 for h in found)
    result = generate_speech(
        speech, student, tmp_path / "no.jsonl", "--gen-subset", "foreign", "--score-reference"
    )
    assert result.returncode != 0
    assert "scores given targets, and this data set has none" in result.stderr
    assert not (tmp_path / "no.jsonl").exists()


@pytest.mark.parametrize("kind", ["transformers", "conformers", "student"])
def test_company_changes_neither_transcripts_nor_measures(
    speech: SpeechCorpus, student: Path, tmp_path: Path, kind: str
) -> None:
    """One utterance at a time, or all of them padded to the longest."""
    paths: Sequence[Path]
    if kind == "transformers":
        paths = speech.teachers
    elif kind == "student":
        paths = [student]
    else:
        paths = [
            save_teacher(speech.data, seed, *CONFORMER, name=f"conformer{seed}.pt")
            for seed in (8, 9)
        ]
    path = os.pathsep.join(map(str, paths))
    for extra in ([], ["--score-reference"]):
        name = "forced" if extra else "searched"
        options = ["--beam", 3, "--max-len-a", 0, "--uncertainty-measures", "all", *extra]
        alone = decoded(speech, path, tmp_path / f"{name}1.jsonl", *options, "--batch-size", 1)
        among = decoded(speech, path, tmp_path / f"{name}7.jsonl", *options, "--batch-size", 7)
        assert len(alone) == len(among) == 7
        for one, other in zip(alone, among, strict=True):
            assert one.tokens == other.tokens
            assert one.text == other.text
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-4)
            assert set(one.uncertainty) == set(other.uncertainty)
            for measure, value in one.uncertainty.items():
                assert other.uncertainty[measure] == pytest.approx(value, abs=1e-4), measure


def test_given_transcripts_are_scored_beside_a_second_system(
    speech: SpeechCorpus, student: Path, tmp_path: Path
) -> None:
    found = decoded(
        speech, student, tmp_path / "o.jsonl", "--gen-subset", "valid", "--score-reference",
        "--score-against", speech.ensemble_paths, "--score-temperatures", "0.8,1,1.25",
    )  # fmt: skip
    assert len(found) == 6
    for hypothesis in found:
        assert hypothesis.text == hypothesis.reference
        assert hypothesis.forced
        assert hypothesis.against is not None
        assert hypothesis.against.model.members == 2
        assert min(hypothesis.against.token_kl_divergence) >= 0
        assert hypothesis.tempered is not None


def test_several_students_and_samples(speech: SpeechCorpus, student: Path, tmp_path: Path) -> None:
    both = decoded(speech, f"{student}:{student}", tmp_path / "two.jsonl")
    one = decoded(speech, student, tmp_path / "one.jsonl", "--dirichlet-samples", 8)
    assert [h.text for h in both] == [h.text for h in one]
    assert any(name.endswith("_ep") for name in one[0].uncertainty)


def test_audio_files_interactively(speech: SpeechCorpus, student: Path, tmp_path: Path) -> None:
    """fairseq-interactive reads paths of audio; the records follow the order of the lines."""
    lines = tmp_path / "lines"
    paths = [str(speech.data / "audio" / f"test-{n}.wav") for n in (4, 0, 6, 2)]
    lines.write_text("\n".join(paths) + "\n")
    output = tmp_path / "o.jsonl"
    result = run(
        "fairseq-interactive", speech.data, "--user-dir", USER_DIR, "--config-yaml", "config.yaml",
        "--task", TASK, "--path", student, "--cpu", "--input", lines, "--buffer-size", 4,
        "--batch-size", 4, "--max-len-b", 8, "--uncertainty-output", output,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = sorted(read_hypotheses(output), key=lambda h: h.id)
    assert [h.source for h in found] == paths
    generated = decoded(speech, student, tmp_path / "g.jsonl", "--beam", 5)
    by_name = {h.source: h for h in generated}
    for hypothesis in found:
        other = by_name[Path(str(hypothesis.source)).stem]
        assert hypothesis.text == other.text
        assert hypothesis.log_prob == pytest.approx(other.log_prob, abs=1e-4)


def test_distances_of_features_need_a_file_of_their_own(
    speech: SpeechCorpus, student: Path, tmp_path: Path
) -> None:
    result = generate_speech(
        speech, student, tmp_path / "o.jsonl", "--feature-density", tmp_path / "none.safetensors"
    )
    assert result.returncode != 0
    assert "none.safetensors" in result.stderr


def test_text_and_speech_do_not_mix(speech: SpeechCorpus, corpus: Corpus, tmp_path: Path) -> None:
    """--ctc-weight is for speech: a translation model is told so."""
    result = train(corpus, tmp_path, "--criterion", "mean_kl", "--ctc-weight", "0.3")
    assert result.returncode != 0
    assert "expected an S2T transformer or conformer" in result.stdout + result.stderr


def test_a_stock_checkpoint_decodes_with_measures(speech: SpeechCorpus, tmp_path: Path) -> None:
    """What fairseq's own task trained is a model like any other (and reads these manifests)."""
    data = tmp_path / "data"
    shutil.copytree(speech.data, data)
    for name in ("train", "valid", "test"):
        utterances = []
        for utterance in read_manifest(data / f"{name}.tsv"):
            features = data / f"{utterance.id}.npy"
            np.save(features, load_features(str(data / utterance.audio), rate=RATE))
            utterances.append(replace(utterance, audio=str(features)))
        write_manifest(data / f"{name}.tsv", utterances)
    result = run(
        "fairseq-train", data, "--config-yaml", "config.yaml", "--task", "speech_to_text",
        *ARCHITECTURE, "--criterion", "label_smoothed_cross_entropy_with_ctc", "--optimizer",
        "adam", "--lr", "0.005", "--batch-size", "8", "--cpu",
        "--required-batch-size-multiple", "1",
        "--max-update", "2", "--no-epoch-checkpoints", "--num-workers", "0", "--save-dir", tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = decoded(speech, tmp_path / "checkpoint_last.pt", tmp_path / "o.jsonl")
    assert {h.model.members for h in found} == {1}
    assert len(found) == 7
