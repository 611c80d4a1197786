"""``seqdistill cache-states`` with real teachers: what is in the store, and going on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.layer_states import LayerStates, depths_of, states_of_tokens
from fairseq_plugins.target_cache.corpus import CorpusPlace, collate, sentence_ids
from fairseq_plugins.teachers import load_translation_member
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.targets.states import StateStore
from tests.plugins.corpus import Corpus, run

LAYERS = "encoder.last,decoder.1"


def cache(corpus: Corpus, folder: Path, *options: object) -> int:
    paths = ":".join(map(str, corpus.teachers))
    given = ["cache-states", corpus.data, "--path", paths, "--output", folder, "--layers", LAYERS]
    return main([str(word) for word in (*given, "--width", 5, "--cpu", *options)])


@pytest.fixture(scope="module")
def store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states") / "store"
    assert cache(corpus, folder, "--shard-sentences", 10) == 0
    return folder


def test_the_states_are_those_of_the_teachers_one_sentence_at_a_time(
    corpus: Corpus, store: Path
) -> None:
    """Alone, without padding; the store was made in batches."""
    opened = StateStore.open(store)
    assert opened.plan.layers == ("encoder.1", "decoder.1")
    _, dataset = CorpusPlace.find(str(corpus.data), None, None, "train").load()
    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    for t, path in enumerate(corpus.teachers):
        model = load_translation_member(str(path), dictionary, dictionary).eval()
        watcher = LayerStates(model, opened.plan.layers)
        for sentence in (0, 13, 31):
            source, target = sentence_ids(dataset, sentence)
            sample = collate(dataset, [sentence], use_cuda=False)
            with torch.no_grad(), watcher.watching() as noted:
                model(**sample["net_input"], features_only=True)
            batch = opened.batch([sentence], [source], [target])
            for layer, ids in (("encoder.1", source), ("decoder.1", target)):
                mask = torch.ones(1, len(ids), dtype=torch.bool)
                expected = opened.compressions[f"{t}.{layer}"].encode(
                    states_of_tokens(noted[layer], mask)
                )
                found = batch.states[f"{t}.{layer}"]
                torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
                assert batch.rows[layer[:7]].tolist() == list(range(len(ids)))
    explained = json.loads((store / "manifest.json").read_text())["explained"]
    assert all(0.3 < share <= 1 for share in explained.values())
    assert len(explained) == 4


def test_an_interrupted_command_goes_on_with_the_same_maps(corpus: Corpus, store: Path) -> None:
    files = {path: path.read_bytes() for path in sorted(store.rglob("*.safetensors"))}
    (store / "manifest.json").unlink()
    (store / "shards" / "00002.safetensors").unlink()
    assert cache(corpus, store, "--shard-sentences", 10) == 0
    assert files == {path: path.read_bytes() for path in sorted(store.rglob("*.safetensors"))}


def test_two_workers_write_the_same_bytes(corpus: Corpus, store: Path, tmp_path: Path) -> None:
    assert cache(corpus, tmp_path / "two", "--shard-sentences", 10, "--workers", 2) == 0
    for path in sorted(store.rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(store)).read_bytes()


def test_few_positions(corpus: Corpus, tmp_path: Path) -> None:
    assert cache(corpus, tmp_path / "few", "--positions", 2) == 0
    opened = StateStore.open(tmp_path / "few")
    _, dataset = CorpusPlace.find(str(corpus.data), None, None, "train").load()
    counts = np.zeros(100, int)
    for sentence in range(32):
        np.add.at(counts, sentence_ids(dataset, sentence)[1], 1)
    source, target = sentence_ids(dataset, 5)
    rows = opened.batch([5], [source], [target]).rows["decoder"].tolist()
    assert len(rows) == 2
    others = [counts[target[i]] for i in range(len(target)) if i not in rows]
    assert max(counts[target[i]] for i in rows) <= min(others)


def test_the_dry_run_says_how_large_it_will_be(
    corpus: Corpus, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache(corpus, tmp_path / "none", "--dry-run") == 0
    told = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "none").exists()
    assert told["states_at_most"] == json.loads((store / "manifest.json").read_text())["states"]
    assert told["bytes_at_most"] == 2 * 5 * told["states_at_most"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layers", "encoder.2"], "this model has encoder.1 to encoder.1"),
        (["--width", 17], "have 16 numbers, so 17 cannot be kept"),
        (["--fit-sentences", 1], "do not show"),
        (["--path", "nowhere/*.pt"], "--path: nothing matches"),
    ],
)
def test_bad_options(
    corpus: Corpus, tmp_path: Path, options: list[object], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert (
        cache(
            corpus,
            tmp_path / "bad",
            *options,
            *(["--width", 12] * (options[0] == "--fit-sentences")),
        )
        == 1
    )
    assert said in capsys.readouterr().err


def test_models_without_layers_are_refused() -> None:
    with pytest.raises(InputError, match="whose layers do not give their states"):
        depths_of(torch.nn.Linear(1, 1), "model.pt")


def test_the_command_is_installed(corpus: Corpus) -> None:
    done = run("seqdistill", "cache-states", "--help")
    assert done.returncode == 0
    assert "--positions K" in done.stdout
