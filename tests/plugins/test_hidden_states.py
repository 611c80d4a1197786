"""Students that learn from stored states: real trainings, and what the term is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.criterions.batch import Batch
from fairseq_plugins.criterions.terms.hidden_states import HiddenStates
from fairseq_plugins.target_cache.corpus import CorpusPlace, collate
from fairseq_plugins.teachers import load_translation_member
from seqdistill.errors import InputError
from tests.plugins.corpus import Corpus, logged, run, train
from tests.plugins.tiny_models import tiny_model

PROXY = ["--criterion", "proxy_dirichlet", "--mix-weight", 0.2]


@pytest.fixture(scope="module")
def store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states") / "store"
    result = run(
        "seqdistill", "cache-states", corpus.data, "--path", corpus.teachers[0], "--layers",
        "encoder.last,decoder.last", "--width", 8, "--output", folder, "--cpu",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def batches(corpus: Corpus, *groups: list[int]) -> list[dict[str, Any]]:
    _, dataset = CorpusPlace.find(str(corpus.data), None, None, "train").load()
    return [collate(dataset, group, use_cuda=False) for group in groups]


def term_of(model: Any, store: Path) -> HiddenStates:
    return HiddenStates(1.0, str(store), model, (1, 1))


def losses(term: HiddenStates, model: Any, samples: list[dict[str, Any]]) -> list[torch.Tensor]:
    found = []
    for sample in samples:
        mask = sample["target"].ne(1)
        with term.watching(Batch(sample, mask, sample["target"][mask], 1.0, 0, False)):
            model(**sample["net_input"], features_only=True)
        found.append(term.distance(sample, by_sentence=False))
    return found


def test_the_teacher_itself_is_as_near_as_the_store_is_exact(corpus: Corpus, store: Path) -> None:
    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    model = load_translation_member(str(corpus.teachers[0]), dictionary, dictionary).eval()
    term = term_of(model, store)
    (sample,) = batches(corpus, list(range(32)))
    (loss,) = losses(term, model, [sample])
    assert float(loss.detach()) / sample["ntokens"] < 1e-5
    # With all states stored, the sum over tokens is the mean over states: 0.5 where a map gives 0.
    for module in term.maps.values():
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    (loss,) = losses(term, model, [sample])
    assert float(loss.detach()) / sample["ntokens"] == pytest.approx(0.5, rel=0.15)


def test_micro_batches_add_up(corpus: Corpus, store: Path) -> None:
    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    model = tiny_model(3, dictionary).eval()
    term = term_of(model, store)
    whole, *parts = batches(corpus, [3, 9, 12, 20], [12], [3, 20, 9])
    (expected, *found) = losses(term, model, [whole, *parts])
    torch.testing.assert_close(sum(found), expected)
    gradients = []
    for total in (expected, sum(found)):
        gradients.append(torch.autograd.grad(total, list(term.maps.parameters())))  # type: ignore[arg-type]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_training_brings_the_states_near_and_goes_on(
    corpus: Corpus, store: Path, tmp_path: Path
) -> None:
    options = [*PROXY, "--state-store", store, "--state-weight", 0.5]
    whole = train(corpus, tmp_path / "whole", *options, "--max-update", 24)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    records = logged(whole.stdout + whole.stderr, "train_inner")
    assert records[-1]["state_loss"] < 0.7 * records[0]["state_loss"]
    for updates in (12, 24):
        part = train(corpus, tmp_path / "parts", *options, "--max-update", updates)
        assert part.returncode == 0, part.stdout + part.stderr
    first, second = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False)
        for name in ("whole", "parts")
    )
    assert len(first["criterion"]) == 4
    for part in ("model", "criterion"):
        for name, weight in first[part].items():
            torch.testing.assert_close(weight, second[part][name], msg=name)
    result = run(
        "seqdistill-fairseq-generate", corpus.data, "--path",
        tmp_path / "whole" / "checkpoint_last.pt", "--cpu", "--beam", 2,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_another_width_and_depth(corpus: Corpus, store: Path, tmp_path: Path) -> None:
    result = train(
        corpus, tmp_path, "--criterion", "mean_kl", "--state-store", store, "--state-weight", 1,
        "--encoder-embed-dim", 24, "--decoder-embed-dim", 24, "--encoder-layers", 2,
        "--no-fused-loss", "--max-update", 8,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    records = logged(result.stdout + result.stderr, "train_inner")
    assert records[-1]["state_loss"] < records[0]["state_loss"]


def options(weight: float, path: str | None) -> SimpleNamespace:
    return SimpleNamespace(state_weight=weight, state_store=path)


@pytest.mark.parametrize(
    ("weight", "path", "said"),
    [
        (-1.0, None, "expected 0 or more"),
        (1.0, None, "make a store with seqdistill cache-states"),
        (0.0, "store", "give a weight above 0"),
        (1.0, "store", "no finished store of states"),
    ],
)
def test_options_that_do_not_go_together(weight: float, path: str | None, said: str) -> None:
    dictionary = Dictionary()
    task = SimpleNamespace(
        student=tiny_model(1, dictionary), cfg=SimpleNamespace(), source_dictionary=dictionary,
        target_dictionary=dictionary,
    )  # fmt: skip
    with pytest.raises(InputError, match=said):
        HiddenStates.from_options(options(weight, path), task)


def test_noise_and_speech_are_refused() -> None:
    task = SimpleNamespace(student=object(), cfg=SimpleNamespace(), source_dictionary=None)
    with pytest.raises(InputError, match="of text, this is speech"):
        HiddenStates.from_options(options(1.0, "store"), task)
    task.source_dictionary, task.cfg.source_dropout = Dictionary(), 0.1
    with pytest.raises(InputError, match="sources without noise"):
        HiddenStates.from_options(options(1.0, "store"), task)
