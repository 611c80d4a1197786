"""``seqdistill generate-sources`` with a real fairseq language model, trained for a few updates."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.source_drawing import model as drawing_model
from fairseq_plugins.source_drawing.model import Draws, SentenceModel
from fairseq_plugins.source_drawing.run import Drawing, DrawOptions
from fairseq_plugins.source_drawing.sieve import CUT, NO_TEXT, REPEATED, Known, Sieve
from fairseq_plugins.target_cache.corpus import CorpusPlace, data_print
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from tests.plugins.corpus import Corpus, run, train
from tests.unit.store_cases import contents

COUNT = 150


@pytest.fixture(scope="module")
def language_model(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the corpus's sources after a few updates of fairseq's own program."""
    folder = tmp_path_factory.mktemp("language-model")
    text, data = corpus.data.parent, folder / "data"
    done = run(
        "fairseq-preprocess", "--only-source", "--trainpref", text / "train.en",
        "--validpref", text / "valid.en", "--srcdict", corpus.data / "dict.en.txt",
        "--destdir", data,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run(
        "seqdistill-fairseq-train", data, "--task", "language_modeling", "--arch", "transformer_lm",
        "--sample-break-mode", "eos", "--decoder-layers", "1", "--decoder-embed-dim", "16",
        "--decoder-ffn-embed-dim", "32", "--decoder-attention-heads", "2", "--optimizer", "adam",
        "--lr", "0.01", "--batch-size", "8", "--tokens-per-sample", "64", "--max-update", "12",
        "--cpu", "--num-workers", "0", "--no-epoch-checkpoints", "--save-dir", folder / "model",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "model" / "checkpoint_best.pt"


def draw(corpus: Corpus, path: Path, output: Path, *options: object) -> int:
    given = ["generate-sources", corpus.data, "--path", path, "--output", output, "--cpu"]
    return main([str(word) for word in (*given, "--max-length", 12, *options)])


@pytest.fixture(scope="module")
def drawn(corpus: Corpus, language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "generated"
    assert draw(corpus, language_model, folder, "--count", COUNT) == 0
    return folder


def sources_of(folder: Path, subset: str) -> list[list[int]]:
    _, dataset = CorpusPlace.find(str(folder), "en", "de", subset).load()
    return [dataset[index]["source"].tolist() for index in range(len(dataset))]


def test_sentences_are_new_whole_and_counted(corpus: Corpus, drawn: Path) -> None:
    found = sources_of(drawn / "data", "generated")
    assert len(found) == len({tuple(ids) for ids in found}) == COUNT
    known = {
        tuple(ids) for name in ("train", "valid", "test") for ids in sources_of(corpus.data, name)
    }
    assert not known & {tuple(ids) for ids in found}
    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    for ids in found:
        assert ids[-1] == dictionary.eos()
        assert 2 <= len(ids) <= 12
        assert min(ids[:-1]) >= dictionary.nspecial
        assert not any(dictionary[i].startswith("madeupword") for i in ids)
    assert len({len(ids) for ids in found}) > 4
    lines = (drawn / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert [[dictionary.index(word) for word in line.split()] for line in lines] == [
        ids[:-1] for ids in found
    ]
    manifest = json.loads((drawn / "manifest.json").read_text())
    assert manifest["sentences"] == COUNT
    assert manifest["tokens"] == sum(map(len, found))
    assert manifest["drawn"] == COUNT + sum(manifest["left_out"].values())
    assert {CUT, REPEATED} <= set(manifest["left_out"])
    assert manifest["cut_again"] == 0
    assert not (drawn / "draws").exists()


def test_the_folder_has_the_other_subsets(corpus: Corpus, drawn: Path) -> None:
    for name in ("train", "valid", "test"):
        ours, theirs = (
            data_print(CorpusPlace.find(str(folder), "en", "de", name).load()[1])
            for folder in (drawn / "data", corpus.data)
        )
        assert ours == theirs


def test_draws_follow_the_seed_alone(corpus: Corpus, language_model: Path, drawn: Path,
                                     tmp_path: Path) -> None:  # fmt: skip
    torch.manual_seed(7)  # of no meaning
    assert draw(corpus, language_model, tmp_path / "again", "--count", COUNT) == 0
    first = sources_of(drawn / "data", "generated")
    assert sources_of(tmp_path / "again" / "data", "generated") == first
    # Fewer are the first of more.
    assert draw(corpus, language_model, tmp_path / "few", "--count", 20) == 0
    assert sources_of(tmp_path / "few" / "data", "generated") == first[:20]
    other = tmp_path / "other"
    assert draw(corpus, language_model, other, "--count", 20, "--seed", 2) == 0
    assert sources_of(other / "data", "generated") != first[:20]


def test_a_killed_command_goes_on(
    corpus: Corpus, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing_model, "CHUNK", 64)
    monkeypatch.setattr(drawing_model, "BATCH", 32)

    def options(name: str) -> DrawOptions:
        return DrawOptions(
            str(corpus.data), str(language_model), str(tmp_path / name), 90, use_cpu=True,
            draws=Draws(longest=12), command=("drawn",),
        )  # fmt: skip

    class KilledError(Exception):
        pass

    def stop(what: str, done: int, total: int, steps: Iterator[int]) -> None:
        for count in steps:
            done += count
            if done > 10:
                raise KilledError

    def quiet(what: str, done: int, total: int, steps: Iterator[int]) -> None:
        assert done + sum(steps) == total == 90

    Drawing(options("whole")).run(quiet)
    with pytest.raises(KilledError):
        Drawing(options("cut")).run(stop)
    assert (tmp_path / "cut" / "draws" / "000000.safetensors").exists()
    made: list[int] = []
    real = SentenceModel.draw
    monkeypatch.setattr(SentenceModel, "draw", lambda self, n: made.append(n) or real(self, n))
    Drawing(options("cut")).run(quiet)
    assert made
    assert 0 not in made
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    made.clear()
    Drawing(options("cut")).run(quiet_nothing)  # it is done
    assert made == []


def quiet_nothing(what: str, done: int, total: int, steps: Iterator[int]) -> None:
    raise AssertionError("nothing is to be done")


def expected_first(path: Path, corpus: Corpus, temperature: float) -> np.ndarray:
    """What a sentence begins with, in float64: no end, no special symbols, no padding entries."""
    from fairseq import checkpoint_utils
    from fairseq.tasks.language_modeling import LanguageModelingTask

    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    state = torch.load(path, weights_only=False)
    task = LanguageModelingTask(state["cfg"]["task"], dictionary)
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], task=task)
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([[dictionary.eos()]]))[0][0, -1].double() / temperature
    for index, symbol in enumerate(dictionary.symbols):
        if index < dictionary.nspecial or symbol.startswith("madeupword"):
            logits[index] = -torch.inf
    return logits.softmax(0).numpy()


@pytest.mark.parametrize("draws", [Draws(), Draws(0.5), Draws(top_k=3), Draws(top_p=0.5)])
def test_first_pieces_have_the_models_probabilities(
    corpus: Corpus, language_model: Path, draws: Draws
) -> None:
    p = expected_first(language_model, corpus, draws.temperature)
    order = np.argsort(-p)
    kept = draws.top_k or len(p)
    if draws.top_p is not None:
        kept = int(np.searchsorted(np.cumsum(p[order]), draws.top_p)) + 1
    p[order[kept:]] = 0
    p /= p.sum()
    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    model = SentenceModel(language_model, dictionary, draws, use_cpu=True)
    before = torch.random.get_rng_state()
    begins = Counter(int(one[0]) for chunk in (0, 1) for one in model.draw(chunk))
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's numbers are untouched
    n = sum(begins.values())
    assert n == 2048
    found = np.array([begins[index] / n for index in range(len(p))])
    assert (np.abs(found - p) <= 4.5 * np.sqrt(p * (1 - p) / n) + 1e-12).all()
    assert set(begins) <= set(np.flatnonzero(p).tolist())


def test_the_likeliest_sentence_alone(corpus: Corpus, language_model: Path, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """With one piece to choose from, all draws are one sentence, and more cannot be had."""
    options = ("--count", 5, "--top-k", 1, "--max-draws", 200)
    assert draw(corpus, language_model, tmp_path / "one", *options) == 1
    said = capsys.readouterr().err
    assert "new sentences in 1024 draws, and 5 are wanted" in said
    assert "ask for fewer (--count), draw more freely" in said


# --- what is kept -----------------------------------------------------------------------------


def test_the_sieve_says_why(corpus: Corpus) -> None:
    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    known = Known(CorpusPlace.find(str(corpus.data), "en", "de", "generated"), dictionary)
    assert list(known.prints) == ["train", "test", "valid"]
    sieve = Sieve(known, dictionary, 8, None)
    train_sentence = np.array(sources_of(corpus.data, "train")[3])
    test_sentence = np.array(sources_of(corpus.data, "test")[2])
    new = np.array([9, 9, 9, 9, 9, 2])
    draws = [train_sentence, new, test_sentence, new, np.array([9] * 8 + [2]), np.array([2]),
             np.array([9, 9, 9, 9, 2])]  # fmt: skip
    assert list(sieve.add(draws)) == [1, 1]
    assert [one.tolist() for one in sieve.kept] == [new.tolist(), draws[-1].tolist()]
    assert sieve.left_out == {"in train": 1, "in test": 1, REPEATED: 1, CUT: 1, NO_TEXT: 1}
    assert sieve.drawn == len(draws)


def test_text_is_cut_as_the_data_was(corpus: Corpus, tmp_path: Path) -> None:
    """Two ways to spell one text are one sentence, in the pieces that its model chooses."""
    import sentencepiece

    text = tmp_path / "text"
    text.write_text("\n".join(["banana bandana ban"] * 20 + ["a nab an"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "spm"), vocab_size=12, minloglevel=2
    )
    cutter = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    dictionary = Dictionary()
    for index in range(3, cutter.get_piece_size()):
        dictionary.add_symbol(cutter.id_to_piece(index))
    nothing = Known(CorpusPlace(str(corpus.data), "none", "either", "generated"), dictionary)
    sieve = Sieve(nothing, dictionary, 30, cutter)

    def ids(pieces: list[str]) -> np.ndarray:
        return np.array([*(dictionary.index(piece) for piece in pieces), dictionary.eos()])

    chosen = cutter.encode("banana", out_type=str)
    letters = ["▁", *"banana"]
    assert chosen != letters
    assert dictionary.unk() not in ids(letters)
    assert list(sieve.add([ids(letters), ids(chosen), ids(["▁"])])) == [1]
    assert sieve.kept[0].tolist() == ids(chosen).tolist()
    assert sieve.recut == 1
    assert sieve.left_out == {REPEATED: 1, NO_TEXT: 1}


# --- the wrong things -------------------------------------------------------------------------


def test_other_draws_in_one_folder_are_refused(
    corpus: Corpus, language_model: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(corpus, language_model, drawn, "--count", COUNT, "--temperature", 0.7) == 1
    said = capsys.readouterr().err
    assert "draws temperature: the folder has 1.0, here it is 0.7" in said
    before = contents(drawn)
    assert draw(corpus, language_model, drawn, "--count", COUNT) == 0
    assert contents(drawn) == before
    assert f"{COUNT} new sentences" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--temperature", 0], "--temperature: expected a number above 0"),
        (["--top-p", 1.5], "--top-p: expected a share"),
        (["--name", "train"], "has a subset train; give another --name"),
        (["--name", "a.b"], "--name: expected letters"),
        (["--path", "absent.pt"], "absent.pt: no such checkpoint"),
        (["--sentencepiece-model", "absent"], "absent: no such sentencepiece model"),
        (["-s", "fr"], "dict.fr.txt: no such dictionary"),
    ],
)
def test_bad_options(
    corpus: Corpus, language_model: Path, tmp_path: Path, options: list[Any], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert draw(corpus, language_model, tmp_path / "bad", "--count", 5, *options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_models_that_cannot_draw(
    corpus: Corpus, language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(corpus, corpus.teachers[0], tmp_path / "out", "--count", 5) == 1
    assert "a model of the task translation; give a language model" in capsys.readouterr().err
    data = tmp_path / "other"
    shutil.copytree(corpus.data, data, ignore=shutil.ignore_patterns("*.pt"))
    symbols = (data / "dict.en.txt").read_text().splitlines()
    (data / "dict.en.txt").write_text("\n".join(reversed(symbols)) + "\n")
    other = Corpus(data, corpus.teachers)
    assert draw(other, language_model, tmp_path / "out", "--count", 5) == 1
    assert "language model and data must share one dictionary" in capsys.readouterr().err
    (data / "dict.en.txt").write_text("\n".join(symbols[:-2]) + "\n")
    assert draw(other, language_model, tmp_path / "out", "--count", 5) == 1
    assert "make the data of both with one --srcdict" in capsys.readouterr().err


def test_folders_of_others_are_left_alone(
    corpus: Corpus, language_model: Path, tmp_path: Path
) -> None:
    for name in ("mine", "data/mine"):
        path = tmp_path / name.replace("/", "-") / name
        path.parent.mkdir(parents=True)
        path.write_text("text")
        folder = tmp_path / name.replace("/", "-")
        with pytest.raises(InputError, match="is not empty"):
            Drawing(DrawOptions(str(corpus.data), str(language_model), str(folder), 5))
        assert draw(corpus, language_model, folder, "--count", 5, "--overwrite") == 1
        assert path.read_text() == "text"


def test_a_folder_that_a_runner_made_is_taken(
    corpus: Corpus, language_model: Path, tmp_path: Path
) -> None:
    """Recipes make the folders of what a step is to write."""
    (tmp_path / "out" / "data").mkdir(parents=True)
    assert draw(corpus, language_model, tmp_path / "out", "--count", 5) == 0
    assert len(sources_of(tmp_path / "out" / "data", "generated")) == 5


def test_the_dry_run_writes_nothing(
    corpus: Corpus, language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(corpus, language_model, tmp_path / "none", "--count", 5, "--dry-run") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left_out_if_in"] == ["train", "test", "valid"]
    assert told["draws_at_most"] == 100
    assert not (tmp_path / "none").exists()


# --- annotate and learn -----------------------------------------------------------------------


def test_the_ensemble_annotates_and_a_student_learns(
    corpus: Corpus, drawn: Path, tmp_path: Path
) -> None:
    for subset, folder, store in (
        ("generated", drawn / "data", tmp_path / "generated"),
        ("valid", corpus.data, tmp_path / "valid"),
    ):
        kind = ["--targets", "ensemble", "--beam", "2", "--max-len-a", "0", "--max-len-b", "9"]
        given = ["cache-targets", folder, "--ensemble-paths", corpus.ensemble_paths, "--output",
                 store, "--subset", subset, *(kind if subset == "generated" else []),
                 "--top-k", 8, "--cpu"]  # fmt: skip
        assert main([str(word) for word in given]) == 0
    learnt = Corpus(tmp_path / "generated" / "data", corpus.teachers)
    done = train(
        learnt, tmp_path / "student", "--ensemble-paths", "", "--criterion", "proxy_dirichlet",
        "--target-store", f"{tmp_path / 'generated'}:{tmp_path / 'valid'}",
        "--train-subset", "generated", "--max-update", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "student" / "checkpoint_best.pt").is_file()
