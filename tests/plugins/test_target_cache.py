"""fairseq teachers fill a store, and fairseq's batches read it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator

from fairseq_plugins.target_cache import open_store
from fairseq_plugins.target_cache.corpus import (
    collate,
    data_print,
    make_batches,
    sentence_ids,
)
from fairseq_plugins.target_cache.run import CacheOptions, Caching, Search
from fairseq_plugins.tasks.ensemble_teacher_translation import (
    EnsembleTeacherTranslationConfig,
    EnsembleTeacherTranslationTask,
)
from fairseq_plugins.teachers import TeacherEnsemble
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.targets.proxy import proxy_dirichlet_target
from tests.plugins.corpus import Corpus, save_teacher
from tests.unit.store_cases import contents

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")

ROOT = Path(__file__).resolve().parents[2]


def quiet(what: str, done: int, total: int, steps: Iterator[int]) -> None:
    assert done + sum(steps) == total


def make(corpus: Corpus, output: Path, **options: Any) -> Path:
    """Make a store of the corpus's training set, or go on with it."""
    defaults: dict[str, Any] = {"shard_sentences": 10, "use_cpu": True, "command": ("made",)}
    given = {"data": str(corpus.data), "ensemble_paths": corpus.ensemble_paths} | options
    Caching(CacheOptions(output=str(output), **(defaults | given))).run(quiet)
    return output


def training_task(data: Path, subset: str = "train") -> Any:
    """The plug-in's task with a subset loaded, as a training has it."""
    config = EnsembleTeacherTranslationConfig(
        data=str(data),
        source_lang="en",
        target_lang="de",
        train_subset="train",
        dataset_impl=None,
        required_seq_len_multiple=1,
    )
    task = EnsembleTeacherTranslationTask.setup_task(config)
    task.load_dataset(subset, combine=True)
    return task


def ensemble_of(corpus: Corpus, task: Any) -> TeacherEnsemble:
    paths = [str(path) for path in corpus.teachers]
    return TeacherEnsemble(paths, task.load_member)


def batches_of(task: Any, epoch: int, subset: str = "train", **options: Any) -> list[Any]:
    """An epoch's batches as fairseq's trainer gets them: shuffled, filtered, by tokens."""
    iterator = task.get_batch_iterator(
        task.dataset(subset), max_tokens=20, max_positions=(1024, 1024), epoch=epoch, **options
    )
    return list(iterator.next_epoch_itr(shuffle=True))


def test_everything_in_float32_equals_the_teachers_online(corpus: Corpus, tmp_path: Path) -> None:
    path = make(
        corpus, tmp_path, top_k=24, store_dtype="float32", for_end2=True, exact_precision=True
    )
    task = training_task(corpus.data)
    stored = open_store(path, task, "train")
    assert (stored.members, stored.temperature, stored.subset) == (2, 1.0, "train")
    ensemble = ensemble_of(corpus, task)
    seen: list[list[int]] = []
    for epoch in (1, 2):
        for sample in batches_of(task, epoch):
            token_mask = sample["target"].ne(task.target_dictionary.pad())
            target = stored.targets(sample, token_mask)
            online = ensemble.statistics(sample["net_input"], token_mask)
            torch.testing.assert_close(target.mean_probs(), online.mean_probs)
            torch.testing.assert_close(target.mean_log_probs(), online.mean_log_probs)
            for name in ("total_uncertainty", "mutual_information", "epkl"):
                torch.testing.assert_close(
                    getattr(target, name), getattr(online, name), rtol=1e-4, atol=1e-5
                )
            exact = proxy_dirichlet_target(online, "exact").inverse_precision
            torch.testing.assert_close(target.exact_inverse_precision, exact, rtol=1e-4, atol=1e-7)
            seen.append(sample["id"].tolist())
    assert len(seen) > 12
    assert len({len(ids) for ids in seen}) > 1
    assert sorted(id_ for ids in seen for id_ in ids) == sorted([*range(32), *range(32)])


def test_filtered_training_reads_its_sentences(corpus: Corpus, tmp_path: Path) -> None:
    path = make(corpus, tmp_path, top_k=5, temperature=2.0)
    task = training_task(corpus.data)
    stored = open_store(path, task, "train")
    assert stored.temperature == 2.0
    ensemble = ensemble_of(corpus, task)
    iterator = task.get_batch_iterator(
        task.dataset("train"), max_sentences=3, max_positions=(6, 6),
        ignore_invalid_inputs=True,
    )  # fmt: skip
    ids: list[int] = []
    for sample in iterator.next_epoch_itr(shuffle=True):
        token_mask = sample["target"].ne(task.target_dictionary.pad())
        target = stored.targets(sample, token_mask)
        online = ensemble.statistics(sample["net_input"], token_mask, 2.0)
        expected = online.mean_probs.gather(1, target.pieces)
        torch.testing.assert_close(target.probs, expected, rtol=2e-3, atol=1e-6)
        ids += sample["id"].tolist()
    assert 0 < len(ids) < 32


def test_validation_sets_have_stores_of_their_own(corpus: Corpus, tmp_path: Path) -> None:
    path = make(corpus, tmp_path, subset="valid")
    task = training_task(corpus.data, "valid")
    stored = open_store(path, task, "valid")
    assert (stored.subset, stored.store.sentences) == ("valid", 8)
    for sample in batches_of(task, 1, "valid"):
        stored.targets(sample, sample["target"].ne(task.target_dictionary.pad()))
    with pytest.raises(InputError, match="the subset train is not loaded"):
        open_store(path, task, "train")


# --- killed and resumed -----------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from tests.plugins.test_target_cache import CacheOptions, Caching
import json
options = json.loads(sys.argv[1])
stage, limit = sys.argv[2], int(sys.argv[3])
def progress(what, done, total, steps):
    for count in steps:
        done += count
        if what == stage and done >= limit:
            os.kill(os.getpid(), signal.SIGKILL)
Caching(CacheOptions(**options)).run(progress)
"""


def kill_at(stage: str, sentences: int, options: dict[str, Any]) -> None:
    """Make a store in another process, and kill it when a stage has done so many sentences."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _KILLED, json.dumps(options), stage, str(sentences)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_store_goes_on_to_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    options = {
        "data": str(corpus.data), "ensemble_paths": corpus.ensemble_paths, "shard_sentences": 10,
        "use_cpu": True, "top_k": 6, "for_end2": True, "max_tokens": 20, "command": ["made"],
    }  # fmt: skip
    expected = contents(make(corpus, tmp_path / "whole", **options))
    cut = tmp_path / "cut"
    kill_at("targets", 22, options | {"output": str(cut)})
    shards = {path.name: path.stat().st_mtime_ns for path in (cut / "shards").glob("*.safetensors")}
    assert sorted(shards) == ["00000.safetensors", "00001.safetensors"]
    assert not (cut / "manifest.json").exists()
    with pytest.raises(InputError, match="not finished"):
        open_store(cut, training_task(corpus.data), "train")
    make(corpus, cut, **options)
    assert contents(cut) == expected
    for name, written in shards.items():
        assert (cut / "shards" / name).stat().st_mtime_ns == written
    # A bad shard, deleted, is made again by the same command: by several workers, too.
    (cut / "shards" / "00001.safetensors").unlink()
    make(corpus, cut, workers=2, **options)
    assert contents(cut) == expected


def test_outputs_of_the_ensemble(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"targets": "ensemble", "search": Search(3, 0.0, 9), "max_tokens": 60}
    # Killed after the first of two chunks; subprocesses have the chunk of the module.
    monkeypatch.setattr("fairseq_plugins.target_cache.decoding.CHUNK", 20)
    path = make(corpus, tmp_path / "store", **options)
    task = training_task(path / "data")
    stored = open_store(path, task, "train")
    assert stored.store.sentences == 32
    assert not list((path / "decoding").glob("*.safetensors"))

    # The folder trains, validates and tests like any other.
    original = training_task(corpus.data)
    assert task.target_dictionary.symbols == original.target_dictionary.symbols
    task.load_dataset("valid")
    original.load_dataset("valid")
    assert data_print(task.dataset("valid")) == data_print(original.dataset("valid"))
    sources = zip(task.dataset("train").src, original.dataset("train").src, strict=True)
    assert all(torch.equal(a, b) for a, b in sources)

    # Its targets are what fairseq's own generator finds, sentence by sentence.
    ensemble = ensemble_of(corpus, task)
    generator = SequenceGenerator(
        ensemble.models, task.target_dictionary, beam_size=3, max_len_a=0, max_len_b=9
    )
    dataset = original.dataset("train")
    for index in (0, 13, 31):
        sample = collate(dataset, [index], use_cuda=False)
        ((best, *_),) = generator.generate(ensemble.models, sample)
        assert task.dataset("train")[index]["target"].tolist() == best["tokens"].tolist()
    for sample in batches_of(task, 1):
        token_mask = sample["target"].ne(task.target_dictionary.pad())
        target = stored.targets(sample, token_mask)
        online = ensemble.statistics(sample["net_input"], token_mask)
        torch.testing.assert_close(target.mean_probs(), online.mean_probs, rtol=2e-3, atol=1e-6)
    with pytest.raises(InputError, match="the folder data inside the store"):
        open_store(path, original, "train")

    # Repeating it decodes nothing again; other settings of the search are refused.
    before = contents(path)
    make(corpus, path, **options)
    assert contents(path) == before
    with pytest.raises(InputError, match="search beam: the store has 3, here it is 4"):
        make(corpus, path, **(options | {"search": Search(4, 0.0, 9)}))
    (path / "decoding" / "plan.json").unlink()
    with pytest.raises(InputError, match="nothing says what it is of"):
        make(corpus, path, **options)


def outputs_of(path: Path, split: str = "train") -> list[list[int]]:
    dataset = training_task(path / "data", split).dataset(split)
    return [dataset[index]["target"].tolist() for index in range(len(dataset))]


def test_several_outputs_of_each_source(corpus: Corpus, tmp_path: Path) -> None:
    """The best of the beam in their order, each beside its source; the first is the single best."""
    options: dict[str, Any] = {"targets": "ensemble", "max_tokens": 60, "top_k": 4}
    single = make(corpus, tmp_path / "single", search=Search(3, 0.0, 9), **options)
    several = make(corpus, tmp_path / "several", search=Search(3, 0.0, 9, outputs=2), **options)
    best, both = outputs_of(single), outputs_of(several)
    assert len(both) == 2 * len(best) == 64
    assert both[::2] == best
    assert all(first != second for first, second in zip(both[::2], both[1::2], strict=True))
    original = training_task(corpus.data).dataset("train")
    doubled = training_task(several / "data").dataset("train")
    for index in (0, 1, 62, 63):
        assert torch.equal(doubled[index]["source"], original[index // 2]["source"])
    with pytest.raises(InputError, match="search outputs"):
        make(corpus, several, search=Search(3, 0.0, 9, outputs=3), **options)
    with pytest.raises(InputError, match="--outputs: expected 1 to 3, the size of the beam, got 4"):
        make(corpus, tmp_path / "wide", search=Search(3, outputs=4), **options)


def test_drawn_outputs_follow_their_seed(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"targets": "ensemble", "max_tokens": 60, "top_k": 4}

    def drawn(name: str, seed: int) -> list[list[int]]:
        search = Search(1, 0.0, 9, outputs=3, sampling=True, seed=seed)
        return outputs_of(make(corpus, tmp_path / name, search=search, **options))

    first = drawn("first", 1)
    assert len(first) == 3 * 32
    assert any(a != b for a, b in zip(first[::3], first[1::3], strict=True))
    assert drawn("again", 1) == first
    assert drawn("other", 2) != first


def test_one_best_is_described_as_stores_have_it() -> None:
    """Stores from before there were several outputs stay what they are."""
    assert Search().described() == {"beam": 5, "max_len_a": 1.2, "max_len_b": 10}
    assert Search(outputs=2).described() == Search().described() | {"outputs": 2}
    drawn = Search(sampling=True).described()
    assert drawn == Search().described() | {"sampling": True, "seed": 0}


def test_sources_alone_are_translated(corpus: Corpus, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus.data, data)
    for path in corpus.data.glob("test.en-de.en.*"):
        shutil.copyfile(path, data / path.name.replace("test.", "mono."))
    given: dict[str, Any] = {"data": str(data), "subset": "mono", "top_k": 4, "max_tokens": 60}
    path = make(corpus, tmp_path / "store", targets="ensemble", search=Search(2, 0.0, 9), **given)
    assert len(outputs_of(path, "mono")) == 8
    task = training_task(path / "data", "mono")
    assert open_store(path, task, "mono").store.sentences == 8
    with pytest.raises(InputError, match="no target side"):
        make(corpus, tmp_path / "references", **given)


def test_killed_decoding_goes_on(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairseq_plugins.target_cache.decoding.CHUNK", 20)
    options: dict[str, Any] = {
        "targets": "both", "search": Search(2, 0.0, 6), "max_tokens": 40, "top_k": 4,
    }  # fmt: skip
    whole = make(corpus, tmp_path / "whole", **options)

    class KilledError(Exception):
        pass

    def stop(what: str, done: int, total: int, steps: Iterator[int]) -> None:
        for count in steps:
            done += count
            if done > 20:
                raise KilledError

    path = tmp_path / "cut"
    caching = CacheOptions(
        data=str(corpus.data), ensemble_paths=corpus.ensemble_paths, output=str(path),
        shard_sentences=10, use_cpu=True, command=("made",), **options,
    )  # fmt: skip
    with pytest.raises(KilledError):
        Caching(caching).run(stop)
    assert [p.name for p in (path / "decoding").glob("*.safetensors")] == ["00000.safetensors"]
    first = (path / "decoding" / "00000.safetensors").stat().st_mtime_ns
    assert first
    make(corpus, path, **options)
    assert contents(path) == contents(whole)
    assert not (path / "data.part").exists()
    # References first, then outputs.
    task = training_task(path / "data")
    assert len(task.dataset("train")) == 64
    original = training_task(corpus.data).dataset("train")
    pair = zip(sentence_ids(task.dataset("train"), 5), sentence_ids(original, 5), strict=True)
    assert all(np.array_equal(a, b) for a, b in pair)
    assert torch.equal(task.dataset("train")[37]["source"], original[5]["source"])
    assert open_store(path, task, "train").store.sentences == 64


# --- the wrong things -------------------------------------------------------------------------


def test_other_teachers_and_settings_are_named(corpus: Corpus, tmp_path: Path) -> None:
    path = make(corpus, tmp_path / "store", top_k=4)
    other = save_teacher(corpus.data, 9, name="other.pt")
    try:
        with pytest.raises(InputError, match=r"teachers 2 sha256: .* \(teacher2\.pt\)"):
            make(corpus, path, top_k=4, ensemble_paths=f"{corpus.teachers[0]}:{other}")
    finally:
        other.unlink()
    with pytest.raises(InputError, match="settings top_k: the store has 4, here it is 5"):
        make(corpus, path, top_k=5)
    with pytest.raises(
        InputError, match="data sentences: the store has 32, here it is 8"
    ) as caught:
        make(corpus, path, top_k=4, subset="valid")
    assert "settings origin subset: the store has train, here it is valid" in str(caught.value)
    make(corpus, path, top_k=5, overwrite=True)
    assert json.loads((path / "manifest.json").read_text())["settings"]["top_k"] == 5


def test_other_data_and_dictionaries_are_named(corpus: Corpus, tmp_path: Path) -> None:
    path = make(corpus, tmp_path / "store", top_k=4)
    task = training_task(corpus.data)
    tgt = task.dataset("train").tgt
    changed = [tgt[index].clone() for index in range(len(tgt))]
    changed[17][0] = changed[17][0] + 1 if changed[17][0] < 20 else 5
    task.dataset("train").tgt = changed
    with pytest.raises(InputError, match=r"target sha256(.|\n)*first sentence that differs is 17"):
        open_store(path, task, "train")
    shorter = training_task(corpus.data)
    shorter.load_dataset("valid")
    with pytest.raises(InputError, match="sentences: the store has 32, here it is 8"):
        open_store(path, shorter, "valid")
    renamed = training_task(corpus.data)
    symbols = Dictionary.load(str(corpus.data / "dict.de.txt"))
    symbols.symbols[6] = "renamed"
    renamed.tgt_dict = symbols
    with pytest.raises(InputError, match=r"entry 6 is .* in the store and 'renamed' here"):
        open_store(path, renamed, "train")


def test_batches_of_other_sentences_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    path = make(corpus, tmp_path, top_k=4)
    task = training_task(corpus.data)
    stored = open_store(path, task, "train")
    sample = collate(task.dataset("train"), [3, 4, 5], use_cuda=False)
    token_mask = sample["target"].ne(task.target_dictionary.pad())
    stored.targets(sample, token_mask)
    wrong = token_mask.clone()
    wrong[1, 0] = False
    with pytest.raises(InputError, match=rf"sentence {int(sample['id'][1])} has \d+ tokens"):
        stored.targets(sample, wrong)
    sample["id"] = sample["id"].roll(1)
    with pytest.raises(InputError, match="sentence"):
        stored.targets(sample, token_mask)


def test_the_prints_of_files_and_of_sentences_agree(corpus: Corpus) -> None:
    dataset = training_task(corpus.data).dataset("train")
    quick = data_print(dataset)
    dataset.src = [dataset.src[index] for index in range(len(dataset))]  # no longer a mapped file
    assert data_print(dataset) == quick


def test_batches_cover_all_sentences_within_the_limit(corpus: Corpus) -> None:
    dataset = training_task(corpus.data).dataset("train")
    batches = make_batches(dataset, range(3, 30), 16)
    assert sorted(index for batch in batches for index in batch) == list(range(3, 30))
    for batch in batches:
        longest = max(max(dataset.src_sizes[i], dataset.tgt_sizes[i]) for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= 16
    assert all(len(batch) == 1 for batch in make_batches(dataset, range(32), 1))


def test_nan_names_sentences_and_teacher_from_a_worker(corpus: Corpus, tmp_path: Path) -> None:
    state = torch.load(corpus.teachers[1], weights_only=True)
    state["model"]["decoder.layers.0.fc1.bias"] += float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(InputError, match=r"sentences \d+ … \d+: NaN .*nan\.pt"):
        make(
            corpus, tmp_path / "store", workers=2, shard_sentences=40,
            ensemble_paths=f"{corpus.teachers[0]}:{tmp_path / 'nan.pt'}",
        )  # fmt: skip


def test_sentences_that_teachers_cannot_read_are_left_out(corpus: Corpus, tmp_path: Path) -> None:
    from fairseq.data import indexed_dataset

    data = tmp_path / "data"
    shutil.copytree(corpus.data, data)
    dictionary = Dictionary.load(str(data / "dict.en.txt"))
    generator = torch.Generator().manual_seed(0)
    long = {4: 80, 9: 65, 10: 64}  # the teachers' positions are 64
    for language in ("en", "de"):
        stem = str(data / f"train.en-de.{language}")
        builder = indexed_dataset.make_builder(f"{stem}.bin", "mmap", len(dictionary))
        for index in range(12):
            length = long.get(index, 5) if language == "de" else 5
            words = torch.randint(5, len(dictionary), (length - 1,), generator=generator)
            builder.add_item(torch.cat([words, torch.tensor([dictionary.eos()])]))
        builder.finalize(f"{stem}.idx")
    path = make(Corpus(data, corpus.teachers), tmp_path / "store", top_k=4)
    task = training_task(data)
    stored = open_store(path, task, "train")
    assert [index for index in range(12) if stored.store.length(index) == 0] == [4, 9]
    sample = collate(task.dataset("train"), [4, 5], use_cuda=False)
    with pytest.raises(InputError, match=r"sentence 4 was left out.*--max-target-positions"):
        stored.targets(sample, sample["target"].ne(task.target_dictionary.pad()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 25}, "between 1 and the vocabulary's 24 entries, got 25"),
        ({"tail_bound": 1.5}, "tail mass in"),
        ({"data": "/nowhere"}, "no such folder"),
        ({"subset": "absent"}, "Dataset not found: absent"),
        ({"source": "fr"}, "dict.fr.txt"),
        ({"ensemble_paths": "/nowhere/a.pt:/nowhere/b.pt"}, r"a\.pt: no such file"),
        ({"temperature": -1.0}, "temperature above 0"),
    ],
)
def test_options_that_cannot_be(
    corpus: Corpus, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(corpus, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_an_empty_subset(corpus: Corpus, tmp_path: Path) -> None:
    from fairseq.data import indexed_dataset

    data = tmp_path / "data"
    shutil.copytree(corpus.data, data)
    for language in ("en", "de"):
        stem = str(data / f"train.en-de.{language}")
        indexed_dataset.make_builder(f"{stem}.bin", "mmap", 24).finalize(f"{stem}.idx")
    with pytest.raises(InputError, match="has no sentences"):
        make(Corpus(data, corpus.teachers), tmp_path / "store")


def test_a_folder_with_something_else_is_left_alone(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty"):
            make(corpus, tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# --- the command line -------------------------------------------------------------------------


def test_from_the_command_line(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    command = ["cache-targets", str(corpus.data), "--ensemble-paths", str(corpus.data / "t*?.pt")]
    command += ["--output", str(store), "--tail-mass", "0.2", "--for-end2", "--cpu"]
    assert main([*command, "--dry-run"]) == 0
    survey = json.loads(capsys.readouterr().out)
    assert (survey["sentences"], survey["shards"], survey["vocabulary"]) == (32, 1, 24)
    assert len(survey["teachers"]) == 2
    assert not store.exists()
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{survey['tokens']} tokens of 32 sentences" in captured.err
    assert os.path.getsize(store / "shards" / "00000.safetensors") <= survey["bytes_at_most"]
    assert main(["cache-verify", str(store)]) == 0
    assert main(["cache-info", str(store), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["tail_mass"]["max"] <= 0.2
    assert record["settings"]["for_end2"] is True
    assert main([*command, "--top-k", "3"]) == 2
    capsys.readouterr()
    assert main([*command, "--max-k", "25"]) == 1
    assert "seqdistill cache-targets: error: " in capsys.readouterr().err


# --- real teachers ----------------------------------------------------------------------------

DATA = Path(os.environ.get("SEQDISTILL_DATA_ROOT") or "../shared/data").resolve()
ENSEMBLE = DATA / "ensembles" / "tatoeba_ende"


@pytest.fixture(scope="module")
def tatoeba(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """300 real sentences, binarised, and five real teachers."""
    import sentencepiece
    from fairseq.data import indexed_dataset

    folder = tmp_path_factory.mktemp("tatoeba")
    segmenter = sentencepiece.SentencePieceProcessor(model_file=str(ENSEMBLE / "spm.model"))
    for language in ("en", "de"):
        shutil.copyfile(ENSEMBLE / f"dict.{language}.txt", folder / f"dict.{language}.txt")
        dictionary = Dictionary.load(str(folder / f"dict.{language}.txt"))
        stem = str(folder / f"train.en-de.{language}")
        builder = indexed_dataset.make_builder(f"{stem}.bin", "mmap", len(dictionary))
        text = (DATA / "mt" / "tatoeba_ende" / f"test.{language}").read_text("utf-8")
        for line in text.splitlines()[:300]:
            pieces = " ".join(segmenter.encode(line, out_type=str))
            builder.add_item(dictionary.encode_line(pieces, add_if_not_exist=False).long())
        builder.finalize(f"{stem}.idx")
    return Corpus(folder, tuple(sorted(ENSEMBLE.glob("teacher?.pt"))))  # type: ignore[arg-type]


@pytest.mark.data
@pytest.mark.skipif(
    not ENSEMBLE.is_dir(), reason="no teachers: set SEQDISTILL_DATA_ROOT to the data folder"
)
def test_the_gradient_of_128_pieces_on_real_teachers(tatoeba: Corpus, tmp_path: Path) -> None:
    from seqdistill.losses import proxy_dirichlet_loss
    from seqdistill.targets.proxy import ProxyDirichletTarget

    path = make(tatoeba, tmp_path, top_k=128, shard_sentences=100, for_end2=True)
    task = training_task(tatoeba.data)
    stored = open_store(path, task, "train")
    dataset = task.dataset("train")
    sample = collate(dataset, range(0, 300, 3), use_cuda=False)
    token_mask = sample["target"].ne(task.target_dictionary.pad())
    target = stored.targets(sample, token_mask)
    online = ensemble_of(tatoeba, task).statistics(sample["net_input"], token_mask)
    torch.testing.assert_close(
        target.reverse_mutual_information, online.reverse_mutual_information, rtol=1e-4, atol=1e-6
    )
    full, stored_probs = online.mean_probs, target.mean_probs()
    torch.testing.assert_close(stored_probs.sum(-1), torch.ones(len(full)), rtol=0, atol=1e-6)
    # A student half-way: sharper than random, blunter than the ensemble.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(full.shape, generator=generator) + 0.7 * full.log() + 4

    def gradient(mean_probs: torch.Tensor) -> torch.Tensor:
        z = logits.clone().requires_grad_()
        proxy = ProxyDirichletTarget(mean_probs, target.inverse_precision("mkl"), "mkl")
        proxy_dirichlet_loss(z, proxy)[0].backward()
        assert z.grad is not None
        return z.grad

    exact = gradient(full)
    dropped = torch.zeros_like(full).scatter(1, target.pieces, target.probs)
    tail = torch.ones_like(full).scatter(1, target.pieces, 0)
    uniform = dropped + tail * (target.tail_mass / tail.sum(-1)).unsqueeze(-1)
    error = {
        name: float((gradient(probs) - exact).norm() / exact.norm())
        for name, probs in (("prior", stored_probs), ("uniform", uniform), ("dropped", dropped))
    }
    print({name: f"{value:.2e}" for name, value in error.items()})
    assert error["prior"] < error["uniform"] < error["dropped"]
    assert error["prior"] < 3e-3
