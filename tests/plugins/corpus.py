"""A tiny parallel corpus, random teachers, and fairseq's real command lines on them."""

import json
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.programs import PROGRAMS, run

USER_DIR = Path(__file__).resolve().parents[2] / "fairseq_plugins"

__all__ = ["PROGRAMS", "Corpus", "logged", "run", "train", "training_arguments"]

#: The architecture of the tiny teachers, as command-line options.
ARCHITECTURE = [
    "--arch", "transformer", "--encoder-layers", "1", "--decoder-layers", "1",
    "--encoder-embed-dim", "16", "--decoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32",
    "--decoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2",
    "--decoder-attention-heads", "2", "--dropout", "0.0",
]  # fmt: skip
TRAINING = [
    "--optimizer", "adam", "--lr", "0.01", "--batch-size", "4", "--cpu", "--seed", "5",
    "--log-format", "json", "--log-interval", "1", "--no-progress-bar", "--num-workers", "0",
    "--no-epoch-checkpoints",
]  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """Binarised data and two teachers.

    Attributes:
        data: fairseq's data folder, en → de, one dictionary for both.
        teachers: checkpoints of two random transformers with that dictionary.
    """

    data: Path
    teachers: tuple[Path, Path]

    @property
    def ensemble_paths(self) -> str:
        return os.pathsep.join(str(path) for path in self.teachers)


def train(corpus: Corpus, save_dir: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Train with the plug-in, as a user of stock fairseq-train would."""
    return run("fairseq-train", *training_arguments(corpus, save_dir, *options))


def training_arguments(corpus: Corpus, save_dir: Path, *options: object) -> list[str]:
    """Return the arguments of :func:`train`."""
    given = [str(option) for option in options]
    arguments = [str(corpus.data), "--user-dir", str(USER_DIR)]
    arguments += ["--task", "ensemble_teacher_translation", "--save-dir", str(save_dir)]
    if "--ensemble-paths" not in given:
        arguments += ["--ensemble-paths", corpus.ensemble_paths]
    return [*arguments, *ARCHITECTURE, *TRAINING, *given]


def logged(output: str, logger: str) -> list[dict[str, float]]:
    """Return the JSON objects that fairseq logged under a name (train_inner, valid)."""
    records = []
    for line in output.splitlines():
        parts = line.split(" | ", 3)
        if len(parts) == 4 and parts[2] == logger and parts[3].startswith("{"):
            values = json.loads(parts[3])
            records.append({k: float(v) for k, v in values.items() if v is not None})
    return records


def make_corpus(folder: Path, test_sentences: int = 8) -> Corpus:
    """Write, binarise and give teachers to a corpus of 40 short sentences and a test set."""
    generator = random.Random(3)
    words = [f"w{number}" for number in range(20)]
    for split, count in (("train", 32), ("valid", 8), ("test", test_sentences)):
        sources = [generator.choices(words, k=generator.randint(2, 7)) for _ in range(count)]
        _write(folder / f"{split}.en", sources)
        _write(folder / f"{split}.de", [sentence[::-1] for sentence in sources])
    result = run(
        "fairseq-preprocess", "-s", "en", "-t", "de", "--trainpref", folder / "train",
        "--validpref", folder / "valid", "--testpref", folder / "test", "--joined-dictionary",
        "--destdir", folder / "binarised",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    data = folder / "binarised"
    return Corpus(data, (save_teacher(data, 1), save_teacher(data, 2)))


def save_teacher(data: Path, seed: int, name: str | None = None) -> Path:
    """Save a random transformer for the dictionaries of a data folder; return its path."""
    from fairseq.data import Dictionary
    from fairseq.models.transformer import TransformerModel
    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    from tests.plugins.tiny_models import save_checkpoint, tiny_settings

    torch.manual_seed(seed)
    dictionary = Dictionary.load(str(data / "dict.en.txt"))
    task = TranslationTask(TranslationConfig(), dictionary, dictionary)
    model = TransformerModel.build_model(tiny_settings(), task)
    # Random weights alone predict nearly uniformly everywhere; these teachers have opinions.
    model.decoder.output_projection.weight.data.mul_(6.0)
    model.student_head = None
    path = data / (name or f"teacher{seed}.pt")
    save_checkpoint(path, model)
    return path


def _write(path: Path, sentences: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(" ".join(sentence) + "\n" for sentence in sentences))
