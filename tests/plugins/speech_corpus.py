"""A tiny language of tones, random teachers of speech, and fairseq's command lines on them."""

import os
import random
import subprocess
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from seqdistill.speech.features import load_features
from seqdistill.speech.manifest import Utterance, write_manifest
from tests.plugins.corpus import TRAINING, USER_DIR, run

RATE = 16_000
#: The language's words, each a chord of its own.
WORDS = ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX")
TASK = "ensemble_teacher_speech_to_text"

#: The architecture of the tiny teachers, as command-line options.
SIZES = [
    "--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "16",
    "--encoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2",
    "--decoder-attention-heads", "2", "--conv-channels", "32", "--dropout", "0.0",
    "--max-source-positions", "400", "--max-target-positions", "30",
]  # fmt: skip
ARCHITECTURE = ["--arch", "s2t_transformer", *SIZES]


@dataclass(frozen=True)
class SpeechCorpus:
    """A prepared data folder and two teachers.

    Attributes:
        data: with the sets train, valid, test and, without transcripts, foreign.
        teachers: checkpoints of two random models.
    """

    data: Path
    teachers: tuple[Path, Path]

    @property
    def ensemble_paths(self) -> str:
        return os.pathsep.join(map(str, self.teachers))


def make_speech_corpus(folder: Path) -> SpeechCorpus:
    """Write audio, manifests and configuration of 24 + 6 + 7 + 5 utterances, and two teachers."""
    generator = random.Random(4)
    for name, count in (("train", 24), ("valid", 6), ("test", 7), ("foreign", 5)):
        utterances = []
        for number in range(count):
            words = generator.choices(WORDS, k=generator.randint(1, 4))
            path = folder / "audio" / f"{name}-{number}.wav"
            write_audio(path, tones(words, generator))
            frames = len(load_features(str(path), rate=RATE))
            text = None if name == "foreign" else " ".join(words)
            if name == "test" and number == 0:
                text = "ONE UNHEARD"  # a word that the dictionary lacks
            place = str(path.relative_to(folder))
            utterances.append(Utterance(f"{name}-{number}", place, frames, text))
        write_manifest(folder / f"{name}.tsv", utterances)
    write_configuration(folder)
    return SpeechCorpus(folder, (save_teacher(folder, 1), save_teacher(folder, 2)))


def write_configuration(folder: Path, **changes: Any) -> None:
    """Write ``config.yaml`` and ``dict.txt``; pieces are words."""
    masks = {"freq_mask_N": 1, "freq_mask_F": 20, "time_mask_N": 1, "time_mask_T": 8}
    settings = {
        "audio_root": "",
        "input_feat_per_channel": 80,
        "sample_rate": RATE,
        "vocab_filename": "dict.txt",
        "specaugment": {**masks, "time_mask_p": 0.5, "time_warp_W": 0},
        "feature_transforms": {
            "*": ["utterance_cmvn"],
            "_train": ["utterance_cmvn", "specaugment"],
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, **changes}))
    (folder / "dict.txt").write_text("".join(f"{word} 1\n" for word in WORDS))


def tones(words: Sequence[str], generator: random.Random) -> np.ndarray:
    """Speak words: 80 ms of two tones each, in a little noise."""
    parts = []
    time = np.arange(int(0.08 * RATE)) / RATE
    for word in words:
        number = WORDS.index(word)
        low, high = 300 + 150 * number, 2500 - 200 * number
        parts.append(np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * high * time))
        parts.append(np.zeros(generator.randint(160, 800)))
    wave = 0.2 * np.concatenate(parts)
    noise = np.random.default_rng(generator.randrange(1 << 30)).normal(0, 0.01, len(wave))
    return (wave + noise).astype(np.float32)


def write_audio(path: Path, wave: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype="PCM_16")


def model_arguments(folder: Path, *options: object) -> Namespace:
    """Parse the options of a model as fairseq's training would; returns all its settings."""
    from fairseq import options as fairseq_options

    import fairseq_plugins  # noqa: F401 (registers the task)

    parser = fairseq_options.get_training_parser()
    if "--arch" not in options:
        options = (*ARCHITECTURE, *options)
    given = [str(folder), "--config-yaml", "config.yaml", "--task", TASK, *map(str, options)]
    return fairseq_options.parse_args_and_arch(parser, given)


def save_teacher(folder: Path, seed: int, *options: object, name: str | None = None) -> Path:
    """Save a random model of speech for a data folder; return its path.

    Args:
        folder: the data's.
        seed: of the weights.
        options: of the architecture; none: those of the tiny transformer, with CTC.
        name: of the file.
    """
    from fairseq import tasks

    chosen = options or (*ARCHITECTURE, "--criterion", "proxy_dirichlet", "--ctc-weight", "0.3")
    arguments = model_arguments(folder, *chosen)
    torch.manual_seed(seed)
    model = tasks.setup_task(arguments).build_model(arguments)
    # Random weights alone predict nearly uniformly everywhere; these teachers have opinions.
    model.decoder.output_projection.weight.data.mul_(6.0)
    path = folder / (name or f"teacher{seed}.pt")
    history = {
        "criterion_name": "CrossEntropyCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {},
        "num_updates": 1,
    }
    state = {
        "args": Namespace(**{k: v for k, v in vars(arguments).items() if _is_plain(v)}),
        "model": model.state_dict(),
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {"epoch": 1}},
        "task_state": {},
    }
    torch.save(state, path)
    return path


def train_speech(
    corpus: SpeechCorpus, save_dir: Path, *options: object
) -> subprocess.CompletedProcess[str]:
    """Train with the plug-in by the real fairseq-train."""
    return run("fairseq-train", *speech_training_arguments(corpus, save_dir, *options))


def speech_training_arguments(corpus: SpeechCorpus, save_dir: Path, *options: object) -> list[str]:
    """Return the arguments of :func:`train_speech`."""
    given = [str(option) for option in options]
    arguments = [str(corpus.data), "--user-dir", str(USER_DIR), "--config-yaml", "config.yaml"]
    arguments += ["--task", TASK, "--save-dir", str(save_dir)]
    if "--ensemble-paths" not in given:
        arguments += ["--ensemble-paths", corpus.ensemble_paths]
    architecture = [] if "--arch" in given else ARCHITECTURE
    return [*arguments, *architecture, *TRAINING, *given]


def generate_speech(
    corpus: SpeechCorpus, path: str | Path, output: Path, *options: object
) -> subprocess.CompletedProcess[str]:
    """Decode the test set (or ``--gen-subset``) with the real fairseq-generate."""
    return run(
        "fairseq-generate", corpus.data, "--user-dir", USER_DIR, "--config-yaml", "config.yaml",
        "--task", TASK, "--path", path, "--cpu", "--quiet", "--num-workers", 0,
        "--max-len-b", 8, "--uncertainty-output", output, *options,
    )  # fmt: skip


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | tuple)
