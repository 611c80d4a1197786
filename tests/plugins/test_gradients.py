"""``seqdistill gradients``: from checkpoints and binarised text to gradients by rank."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq_plugins.generation.loading import load_models
from fairseq_plugins.target_cache.corpus import CorpusPlace
from seqdistill.assessment.gradients import RankBins
from seqdistill.cli.main import main
from tests.plugins.corpus import Corpus, save_teacher

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore::UserWarning:hydra"),
]


def gradients(corpus: Corpus, output: Path, *more: object) -> int:
    arguments = ["gradients", corpus.data, "--ensemble-paths", corpus.ensemble_paths, "--cpu"]
    return main([*map(str, arguments), "--output", str(output), *map(str, more)])


def log_probs(paths: list[Path], corpus: Corpus, subset: str) -> list[torch.Tensor]:
    """Log-probabilities (tokens, V) of each model, every sentence by itself, in float64."""
    _, dataset = CorpusPlace.find(str(corpus.data), "en", "de", subset).load()
    found = []
    for path in paths:
        (model,) = load_models([str(path)], corpus.data, "en", "de").models
        rows = []
        for index in range(len(dataset)):
            source, target = dataset[index]["source"], dataset[index]["target"]
            shifted = torch.cat([target[-1:], target[:-1]])
            with torch.no_grad():
                output = model(source[None], torch.tensor([len(source)]), shifted[None])[0][0]
            rows.append(output.double().log_softmax(-1))
        found.append(torch.cat(rows))
    return found


def test_gradients_of_real_models(corpus: Corpus, tmp_path: Path) -> None:
    student = save_teacher(corpus.data, 7, "other.pt")
    output = tmp_path / "gradients.json"
    assert gradients(corpus, output, "--student", f"other={student}", "--per-decade", 2) == 0
    found = json.loads(output.read_text(encoding="utf-8"))
    assert (found["sentences"], found["origin"]["data"]) == (8, "binarised, valid")
    assert set(found["gradients"]) == {"uniform", "other"}
    assert set(found["losses"]) == {
        "proxy_dirichlet", "proxy_dirichlet_forward", "end2", "mean_kl"
    }  # fmt: skip
    *teachers, other = log_probs([*corpus.teachers, student], corpus, "valid")
    mean = torch.stack(teachers).exp().mean(0)
    assert found["tokens"] == len(mean)
    bins = RankBins.of(mean.shape[1], 2)
    assert found["bins"] == list(map(list, zip(bins.first, bins.last, strict=True)))
    order = mean.argsort(-1, descending=True)
    for name, prediction in (("other", other.exp()), ("uniform", 1 / mean.shape[1])):
        ranked = (prediction - mean).abs().gather(1, order).numpy()
        expected = [
            ranked[:, first - 1 : last].mean() for first, last in np.array(found["bins"]).tolist()
        ]
        numbers = found["gradients"][name]["mean_kl"]["mean_absolute"]
        assert [n["value"] for n in numbers] == pytest.approx(expected, rel=1e-4)
        assert all(n["low"] <= n["value"] <= n["high"] for n in numbers)


def test_some_sentences_and_one_loss(corpus: Corpus, tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        options = ["--max-sentences", 5, "--losses", "end2", "--subset", "train", "--bootstrap", 0]
        assert gradients(corpus, tmp_path / name, *options) == 0
        found.append(json.loads((tmp_path / name).read_text(encoding="utf-8")))
    assert found[0] == found[1]
    assert found[0]["sentences"] == 5
    assert list(found[0]["losses"]) == ["end2"]
    assert found[0]["gradients"]["uniform"]["end2"]["mean_absolute"][0]["low"] is None


def test_bad_input(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(message: str, *more: Any, code: int = 1) -> None:
        assert gradients(corpus, tmp_path / "out.json", *more) == code
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out.json").exists()

    refused("no such file", "--student", tmp_path / "none.pt")
    refused("cannot be called 'uniform'", "--student", f"uniform={corpus.teachers[0]}")
    refused("expected a number of at least 1, got 0", "--per-decade", 0, code=2)
    refused("expected losses among", "--losses", "end3", code=2)
    refused("resamples and seed must be 0 or more", "--bootstrap", -1)
    refused("needs at least 2", "--ensemble-paths", corpus.teachers[0])
    # A vocabulary of one entry more.
    state = torch.load(corpus.teachers[0], weights_only=False)
    for name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        rows = state["model"][name]
        state["model"][name] = torch.cat([rows, rows[:1]])
    larger = tmp_path / "larger.pt"
    torch.save(state, larger)
    refused("trained with other dictionaries", "--student", larger)
    refused("vocabulary entries", "--ensemble-paths", f"{corpus.teachers[0]}:{larger}")
