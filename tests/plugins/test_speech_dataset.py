"""Speech as models read it: the same masks whenever, places that exist, clean features."""

import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import tasks

from seqdistill.errors import InputError
from seqdistill.speech.features import load_features
from tests.plugins.speech_corpus import (
    RATE,
    TASK,
    SpeechCorpus,
    model_arguments,
    write_audio,
    write_configuration,
)

# fairseq asks for pinned memory whether there is a GPU or not.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


def task_of(speech: SpeechCorpus, *options: object, data: Path | None = None) -> Any:
    return tasks.setup_task(model_arguments(data or speech.data, *options))


def epoch_of(task: Any, epoch: int) -> list[dict[str, torch.Tensor]]:
    """The batches of an epoch: names and features."""
    iterator = task.get_batch_iterator(
        task.dataset("train"), max_sentences=5, num_workers=0, epoch=epoch
    )
    return [by_name(batch) for batch in iterator.next_epoch_itr(shuffle=True)]


def by_name(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    net_input = batch["net_input"]
    rows = zip(net_input["src_tokens"], net_input["src_lengths"].tolist(), strict=True)
    return {name: row[:n] for name, (row, n) in zip(batch["utterances"], rows, strict=True)}


def utterances_of(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: features for batch in batches for name, features in batch.items()}


def test_masks_depend_on_seed_epoch_and_utterance_alone(speech: SpeechCorpus) -> None:
    """Not on what numpy drew before, nor on where an epoch is begun, nor on loader processes."""

    def task() -> Any:
        task = task_of(speech, "--seed", 3)
        task.load_dataset("train")
        return task

    one, other = task(), task()
    first = utterances_of(epoch_of(one, 1))
    second = utterances_of(epoch_of(one, 2))
    np.random.seed(99)
    straight_to_the_second = utterances_of(epoch_of(other, 2))
    assert len(first) == 24
    for name in first:
        torch.testing.assert_close(straight_to_the_second[name], second[name], rtol=0, atol=0)
    changed = sum(not torch.equal(first[name], second[name]) for name in first)
    assert changed > 12  # some masks have length 0
    seeded = task_of(speech, "--seed", 4)
    seeded.load_dataset("train")
    assert any(not torch.equal(v, first[k]) for k, v in utterances_of(epoch_of(seeded, 1)).items())


def test_loader_processes_that_live_on_learn_of_the_next_epoch(speech: SpeechCorpus) -> None:
    task = task_of(speech, "--seed", 3)
    task.load_dataset("train")
    expected = [utterances_of(epoch_of(task, epoch)) for epoch in (1, 2)]
    again = task_of(speech, "--seed", 3)
    again.load_dataset("train")
    iterator = again.get_batch_iterator(
        again.dataset("train"), max_sentences=5, num_workers=1, epoch=1
    )
    for epoch in (0, 1):
        batches = [by_name(batch) for batch in iterator.next_epoch_itr(shuffle=True)]
        for name, features in utterances_of(batches).items():
            torch.testing.assert_close(features, expected[epoch][name], rtol=0, atol=0)


def test_evaluation_is_not_augmented_and_normalised(speech: SpeechCorpus) -> None:
    task = task_of(speech)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    for index in range(len(dataset)):
        features = dataset[index].source
        torch.testing.assert_close(features, dataset[index].source, rtol=0, atol=0)
        assert features.mean(0).abs().max() < 1e-4
        assert (features.std(0, correction=0) - 1).abs().max() < 1e-2


def test_clean_features_for_the_teachers(speech: SpeechCorpus) -> None:
    task = task_of(speech, "--teacher-features", "clean")
    task.load_dataset("train")
    task.load_dataset("valid")
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[index] for index in range(6)])
    clean, augmented = batch["teacher_net_input"], batch["net_input"]
    assert clean["src_tokens"].shape == augmented["src_tokens"].shape
    masked = (clean["src_tokens"] != augmented["src_tokens"]).any(-1).any(-1)
    assert masked.sum() >= 3
    # What differs is what the masks set to the mean, 0.
    where = clean["src_tokens"] != augmented["src_tokens"]
    assert augmented["src_tokens"][where].abs().max() < 1e-5
    dataset = task.dataset("valid")
    assert "teacher_net_input" not in dataset.collater([dataset[0], dataset[1]])
    augmenting = task_of(speech)
    augmenting.load_dataset("train")
    dataset = augmenting.dataset("train")
    assert "teacher_net_input" not in dataset.collater([dataset[0], dataset[1]])


def test_sets_are_joined(speech: SpeechCorpus, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(speech.data, data)
    shutil.copy(data / "valid.tsv", data / "train_more.tsv")
    task = task_of(speech, data=data)
    task.load_dataset("train,train_more")
    dataset = task.dataset("train,train_more")
    assert len(dataset) == 30
    batch = dataset.collater([dataset[index] for index in (3, 25)])
    assert sorted(batch["utterances"]) == ["train-3", "valid-1"]
    write_configuration(data, sampling_alpha=0.5)
    with pytest.raises(InputError, match=r"sampling_alpha 0\.5; only 1"):
        task_of(speech, data=data).load_dataset("train,train_more")


def test_a_moved_folder_works(speech: SpeechCorpus, tmp_path: Path) -> None:
    data = tmp_path / "moved"
    shutil.copytree(speech.data, data)
    write_configuration(data, audio_root="/was/here/once")
    task = task_of(speech, data=data)
    task.load_dataset("test")
    assert str(data.resolve()) in task.dataset("test").audio_paths[0]


def test_global_statistics_move_with_their_folder(speech: SpeechCorpus, tmp_path: Path) -> None:
    data = tmp_path / "moved"
    shutil.copytree(speech.data, data)
    mean, std = np.full(80, 2.0, np.float32), np.full(80, 4.0, np.float32)
    np.savez(data / "gcmvn.npz", mean=mean, std=std)
    write_configuration(
        data,
        global_cmvn={"stats_npz_path": "/was/here/once/gcmvn.npz"},
        feature_transforms={"*": ["global_cmvn"]},
    )
    task = task_of(speech, data=data)
    task.load_dataset("test")
    dataset = task.dataset("test")
    raw = load_features(dataset.audio_paths[0], rate=RATE)
    np.testing.assert_allclose(dataset[0].source.numpy(), (raw - 2) / 4, rtol=1e-6)
    (data / "gcmvn.npz").unlink()
    with pytest.raises(InputError, match=r"gcmvn\.npz: no such file, although the configuration"):
        task_of(speech, data=data)


def test_a_set_without_transcripts(speech: SpeechCorpus) -> None:
    task = task_of(speech)
    task.load_dataset("foreign")
    dataset = task.dataset("foreign")
    batch = dataset.collater([dataset[index] for index in range(3)])
    assert batch["target"] is None
    assert batch["transcripts"] == [None] * 3


def read_all(speech: SpeechCorpus, data: Path, subset: str) -> list[Any]:
    task = task_of(speech, data=data)
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no config", r"config\.yaml: no such file; expected a folder that seqdistill prepare"),
        ("no dictionary", r"dict\.txt: no such file, although .*config\.yaml names it"),
        ("no manifest", r"nowhere\.tsv: no such manifest"),
        ("no audio", r"test-2\.wav: expected a file, found none"),
        ("cut short", r"test-1\.wav"),
        ("other rate", r"test-1\.wav.*8000|8 ?kHz"),
        ("other length", r"test-1\.wav: expected 9\d* frames, as the manifest of test says"),
    ],
)
def test_bad_data(speech: SpeechCorpus, tmp_path: Path, damage: str, message: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(speech.data, data)
    audio = data / "audio" / "test-1.wav"
    subset = "test"
    if damage == "no config":
        (data / "config.yaml").unlink()
    elif damage == "no dictionary":
        (data / "dict.txt").unlink()
    elif damage == "no manifest":
        subset = "nowhere"
    elif damage == "no audio":
        (data / "audio" / "test-2.wav").unlink()
    elif damage == "cut short":
        audio.write_bytes(audio.read_bytes()[:3000])
    elif damage == "other rate":
        write_audio(audio, np.zeros(RATE, np.float32) + 0.1, RATE // 2)
    else:
        lines = (data / "test.tsv").read_text().splitlines()
        fields = lines[2].split("\t")
        fields[2] = "9" + fields[2]
        lines[2] = "\t".join(fields)
        (data / "test.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=message):
        read_all(speech, data, subset)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_audio_input": True}, "use_audio_input: expected a model of filterbanks"),
        (
            {"waveform_transforms": {"_train": ["noiseaugment"]}},
            "waveform_transforms: features are made beforehand",
        ),
        (
            {"dataset_transforms": {"_train": ["concataugment"]}},
            "dataset_transforms: joined utterances have no clean features",
        ),
    ],
)
def test_what_is_not_done_is_refused(
    speech: SpeechCorpus, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(speech.data, data)
    write_configuration(data, **settings)
    task = task_of(speech, "--teacher-features", "clean", data=data)
    with pytest.raises(InputError, match=message):
        task.load_dataset("train")


def test_utterances_may_be_joined(speech: SpeechCorpus, tmp_path: Path) -> None:
    """fairseq's ConcatAugment, which needs no sound: frames and texts one after the other."""
    data = tmp_path / "data"
    shutil.copytree(speech.data, data)
    write_configuration(
        data,
        feature_transforms={},
        dataset_transforms={"_train": ["concataugment"]},
        concataugment={"rate": 1.0, "max_tokens": 1000, "attempts": 5},
    )
    task = task_of(speech, data=data)
    task.load_dataset("train")
    dataset = task.dataset("train")
    joined = [dataset[index] for index in range(len(dataset))]
    assert any(len(item.source) > dataset.n_frames[item.index] for item in joined)


def test_an_old_checkpoints_settings_are_enough(speech: SpeechCorpus) -> None:
    """Those of fairseq's own task, which knows none of the options here."""
    arguments = Namespace(
        task=TASK, data=str(speech.data), config_yaml="config.yaml", max_source_positions=400,
        max_target_positions=30,
    )  # fmt: skip
    task = tasks.setup_task(arguments)
    assert task.uncertainty_options().combination == "pe"
    task.load_dataset("test")
