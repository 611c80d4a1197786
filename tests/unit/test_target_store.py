"""The target store: what comes out is what went in, and damage never passes for a target."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.files import locked, write_whole
from seqdistill.targets.proxy import proxy_dirichlet_target
from seqdistill.targets.sparse import SparseTarget
from seqdistill.targets.store import (
    StoreSettings,
    StoreWriter,
    TargetStore,
    TeacherPrint,
    sparsify,
    write_shard,
)
from seqdistill.targets.store.coding import (
    decode_log_probs,
    decode_probs,
    encode_log_probs,
    encode_probs,
)
from seqdistill.targets.store.describe import describe
from seqdistill.targets.store.files import MappedTensors, tensors_to_bytes
from seqdistill.targets.store.verify import verify
from seqdistill.targets.store.writer import clear, refuse_foreign
from seqdistill.teachers import ensemble_statistics
from seqdistill.workers import do_units, worker_number
from tests.unit.store_cases import (
    Case,
    Squares,
    build_shard,
    contents,
    joined,
    make_case,
    write_store,
)

UNCERTAINTIES = ("total_uncertainty", "mutual_information", "epkl", "reverse_mutual_information")


def whole(store: TargetStore) -> SparseTarget:
    return store.batch(list(range(store.sentences)))


def problems_of(folder: Path) -> list[str]:
    return [problem for _, problems in verify(folder) for problem in problems]


def complaint(store: TargetStore, sentences: list[int]) -> str | None:
    try:
        store.batch(sentences)
    except InputError as error:
        return str(error)
    return None


# --- what comes out ---------------------------------------------------------------------------


def test_k_of_the_whole_vocabulary_in_float32_loses_nothing(tmp_path: Path) -> None:
    case = make_case(top_k=40, dtype="float32", for_end2=True, exact_precision=True)
    store = TargetStore.open(write_store(case, tmp_path))
    target = whole(store)
    every = list(range(store.sentences))
    torch.testing.assert_close(target.mean_probs(), case.full(every), rtol=0, atol=0)
    torch.testing.assert_close(
        target.mean_log_probs(), case.full(every, "mean_log_probs"), rtol=0, atol=0
    )
    for name in UNCERTAINTIES:
        assert torch.equal(getattr(target, name), case.full(every, name)), name
    exact = proxy_dirichlet_target(joined(case.statistics), "exact").inverse_precision
    assert target.exact_inverse_precision is not None
    torch.testing.assert_close(target.exact_inverse_precision, exact, rtol=1e-6, atol=0)
    assert torch.equal(target.tail_mass, torch.zeros(len(target)))
    assert (target.members, target.temperature) == (3, 1.0)


def test_top_k_and_the_prior_as_slow_sums_give_them(tmp_path: Path) -> None:
    case = make_case(top_k=5, dtype="float32")
    target = whole(TargetStore.open(write_store(case, tmp_path)))
    probs = case.full(list(range(7))).double().numpy()
    tails, weights = np.zeros(40), np.zeros(40)
    pieces = []
    for row in probs:
        top = np.argsort(-row)[:5]
        pieces.append(set(top.tolist()))
        outside = [v for v in range(40) if v not in pieces[-1]]
        for v in outside:
            tails[v] += row[v]
            weights[v] += sum(row[u] for u in outside)
    prior = tails / weights
    prior /= prior.sum()
    np.testing.assert_allclose(target.prior.numpy(), prior, rtol=1e-5)
    assert [set(row) for row in target.pieces.tolist()] == pieces
    dense = target.mean_probs().double().numpy()
    for n, row in enumerate(probs):
        outside = [v for v in range(40) if v not in pieces[n]]
        tail = sum(row[v] for v in outside)
        share = sum(prior[v] for v in outside)
        for v in range(40):
            expected = row[v] if v in pieces[n] else tail * prior[v] / share
            assert dense[n, v] == pytest.approx(expected, rel=2e-5)


def test_any_order_repeats_and_none(tmp_path: Path) -> None:
    case = make_case()
    store = TargetStore.open(write_store(case, tmp_path))
    sentences = [6, 0, 3, 3, 5]
    target = store.batch(sentences, [case.lengths[n] for n in sentences])
    alone = [store.batch([n]) for n in sentences]
    for name in ("pieces", "probs", "tail_mass", *UNCERTAINTIES):
        assert torch.equal(
            getattr(target, name), torch.cat([getattr(one, name) for one in alone])
        ), name
    torch.testing.assert_close(
        target.probs,
        case.full(sentences).gather(1, target.pieces),
        rtol=2**-10,
        atol=0,
    )
    empty = store.batch([])
    assert (len(empty), empty.pieces.shape, empty.vocabulary_size) == (0, (0, 8), 40)
    assert empty.mean_probs().shape == (0, 40)


@pytest.mark.parametrize("for_end2", [False, True])
def test_adaptive_k_is_the_smallest_that_keeps_the_bound(tmp_path: Path, for_end2: bool) -> None:
    bound = 0.1
    case = make_case(tail_bound=bound, max_k=12, for_end2=for_end2)
    store = TargetStore.open(write_store(case, tmp_path))
    target = whole(store)
    ordered = case.full(list(range(7))).double().sort(descending=True).values
    after = 1 - ordered.cumsum(-1)
    expected = [min(12, int((row > bound).sum()) + 1) for row in after]
    counts = [len(set(row)) for row in target.pieces.tolist()]
    assert counts == expected
    assert min(counts) < max(counts) == target.pieces.shape[1] == 12
    for n, k in enumerate(counts):
        # Rows with fewer pieces repeat their first, its values included.
        assert (target.pieces[n, k:] == target.pieces[n, 0]).all()
        assert (target.probs[n, k:] == target.probs[n, 0]).all()
        assert float(target.tail_mass[n]) == pytest.approx(float(after[n, k - 1]), abs=1e-6)
        assert float(target.tail_mass[n]) <= bound or k == 12
    torch.testing.assert_close(target.mean_probs().sum(-1), torch.ones(len(target)))
    assert describe(store)["pieces_per_token"]["mean"] == pytest.approx(np.mean(expected))
    empty = store.batch([])
    assert len(empty) == 0
    if for_end2:
        log_probs = case.full(list(range(7)), "mean_log_probs")
        assert target.log_probs is not None
        for n, k in enumerate(counts):
            assert (target.log_probs[n, k:] == target.log_probs[n, 0]).all()
        torch.testing.assert_close(
            target.mean_log_probs().sum(-1), log_probs.sum(-1), rtol=1e-4, atol=0
        )


def test_what_end2_needs(tmp_path: Path) -> None:
    case = make_case(for_end2=True)
    target = whole(TargetStore.open(write_store(case, tmp_path)))
    log_probs = case.full(list(range(7)), "mean_log_probs")
    gap = (case.full(list(range(7))).log() - log_probs).gather(1, target.pieces)
    assert target.log_probs is not None
    error = (target.log_probs - log_probs.gather(1, target.pieces)).abs()
    assert bool((error <= 1e-3 * gap + 1e-3).all())
    # Only the tail's shape is an approximation; its sum is right.
    approximate = target.mean_log_probs()
    torch.testing.assert_close(approximate.sum(-1), log_probs.sum(-1), rtol=1e-4, atol=0)
    torch.testing.assert_close(target.log_prior, log_probs.mean(0), rtol=1e-5, atol=1e-5)
    plain = make_case()
    with pytest.raises(InputError, match="--for-end2"):
        whole(TargetStore.open(write_store(plain, tmp_path / "plain"))).mean_log_probs()


def test_infinite_log_probabilities_are_refused_for_end2_only() -> None:
    log_probs = torch.full((2, 1, 4), 0.25).log()
    log_probs[0, 0] = torch.tensor([0.5, 0.5, 0.0, 0.0]).log()
    statistics = ensemble_statistics(log_probs)
    settings = StoreSettings(4, 2, top_k=2)
    assert sparsify(statistics, settings).pieces.tolist() in ([0, 1], [1, 0])
    with pytest.raises(InputError, match="probability 0"):
        sparsify(statistics, replace(settings, for_end2=True))


@pytest.mark.parametrize("exponent", range(-12, 1))
def test_float16_probabilities_keep_eleven_bits(exponent: int) -> None:
    probs = 10.0**exponent * torch.linspace(0.1, 1, 200)
    decoded = decode_probs(encode_probs(probs, "float16", keep_positive=False))
    relative = ((decoded - probs) / probs).abs()
    exact = probs >= 2.0**-29  # where float16, scaled by 2¹⁵, has all its bits
    assert bool((relative[exact] <= 2**-11).all())
    assert bool(((decoded - probs).abs() <= 2.0**-40).logical_or(exact).all())


def test_positive_probabilities_stay_positive_where_their_logarithm_is_kept() -> None:
    probs = torch.tensor([1e-20, 1e-13, 1.0])
    log_probs = torch.tensor([-50.0, -35.0, -0.5])
    stored = encode_probs(probs, "float16", keep_positive=True)
    decoded = decode_log_probs(encode_log_probs(log_probs, stored), decode_probs(stored))
    torch.testing.assert_close(decoded, log_probs, rtol=1e-3, atol=1e-3)


def test_a_sharp_token_keeps_its_tail(tmp_path: Path) -> None:
    # 1 − p is far below the last bit of p in float16.
    case = make_case(sharpness=12.0, V=60)
    target = whole(TargetStore.open(write_store(case, tmp_path)))
    full = case.full(list(range(7)))
    tail = full.double().scatter(1, target.pieces, 0).sum(-1).float()
    assert float(tail.min()) < 1e-6
    torch.testing.assert_close(target.tail_mass, tail, rtol=1e-5, atol=1e-12)
    dense = target.mean_probs()
    torch.testing.assert_close(dense.sum(-1), torch.ones(len(dense)), rtol=0, atol=1e-6)
    sharp = full.max(-1).values > 0.999
    assert int(sharp.sum()) > 2
    largest = (dense - full)[sharp].abs().max()
    assert float(largest) < 1e-6  # and not 2e-4


def test_more_than_65536_pieces(tmp_path: Path) -> None:
    case = make_case(V=65_600, lengths=(2, 1), members=2, top_k=4, dtype="float32")
    # The likeliest piece of one token lies beyond 16 bits.
    for statistics in case.statistics:
        statistics.mean_probs.mul_(0.5)[:, 65_590] = 0.5
    store = TargetStore.open(write_store(case, tmp_path))
    target = whole(store)
    assert target.pieces[:, 0].tolist() == [65_590] * 3
    torch.testing.assert_close(target.probs, case.full([0, 1]).gather(1, target.pieces))
    assert store.shard(0).arrays["pieces"].dtype == np.uint32
    narrow = make_case(V=65_536, lengths=(1,), members=2, top_k=4)
    narrow.statistics[0].mean_probs[0, 65_535] = 0.9
    stored = TargetStore.open(write_store(narrow, tmp_path / "narrow"))
    assert stored.shard(0).arrays["pieces"].dtype == np.uint16
    assert int(stored.batch([0]).pieces[0, 0]) == 65_535


def test_pieces_that_are_never_in_a_tail_have_a_positive_share(tmp_path: Path) -> None:
    case = make_case(V=6, top_k=5)
    for statistics in case.statistics:
        statistics.mean_probs.copy_(torch.tensor([0.4, 0.2, 0.15, 0.15, 0.05, 0.05]))
        statistics.mean_probs[:, 5] -= 0.01
    target = whole(TargetStore.open(write_store(case, tmp_path)))
    assert bool((target.prior > 0).all())
    assert float(target.prior[5]) > 0.999
    everything = make_case(V=6, top_k=6)
    target = whole(TargetStore.open(write_store(everything, tmp_path / "all")))
    torch.testing.assert_close(target.prior, torch.full((6,), 1 / 6))


def test_temperature_and_foreign_statistics() -> None:
    case = make_case(temperature=2.0)
    sparsify(case.statistics[0], case.plan.settings)
    with pytest.raises(InputError, match=r"planned with 1.0 as temperature, got 2.0"):
        sparsify(case.statistics[0], replace(case.plan.settings, temperature=1.0))
    with pytest.raises(InputError, match=r"planned with 41 vocabulary entries, got 40"):
        sparsify(case.statistics[0], replace(case.plan.settings, vocabulary_size=41))
    with pytest.raises(InputError, match=r"planned with 5 members, got 3"):
        sparsify(case.statistics[0], replace(case.plan.settings, members=5))


def test_description(tmp_path: Path) -> None:
    case = make_case(V=200, lengths=(30,) * 40, top_k=16, shard_sentences=64)
    store = TargetStore.open(write_store(case, tmp_path))
    record = json.loads(json.dumps(describe(store)))
    every = list(range(40))
    assert (record["sentences"], record["tokens"], record["left_out"]) == (40, 1200, 0)
    assert record["mean_epkl"] == pytest.approx(float(case.full(every, "epkl").mean()), rel=1e-5)
    assert record["pieces_per_token"]["max"] == 16
    assert 0 < record["tail_mass"]["median"] < record["tail_mass"]["max"] < 1
    assert record["teachers"] == ["0.pt", "1.pt", "2.pt"]
    # 4 bytes a piece and 4 numbers a token; the rest is per sentence, shard and vocabulary.
    assert 16 * 4 + 16 < record["bytes_per_token"] < 16 * 4 + 16 + 12


# --- reading in other processes ---------------------------------------------------------------


def _probabilities(store: TargetStore, sentences: list[int]) -> list[list[float]]:
    return store.batch(sentences).probs.tolist()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_other_processes_may_read(tmp_path: Path) -> None:
    store = TargetStore.open(write_store(make_case(), tmp_path))
    here = _probabilities(store, [2, 5])
    with multiprocessing.get_context("fork").Pool(2) as pool:  # as data-loader workers are made
        found = pool.starmap(_probabilities, [(store, [2, 5])] * 4)
    assert found == [here] * 4
    assert _probabilities(pickle.loads(pickle.dumps(store)), [2, 5]) == here


# --- the wrong batch --------------------------------------------------------------------------


def test_batches_that_do_not_fit_name_the_sentence(tmp_path: Path) -> None:
    case = make_case()
    store = TargetStore.open(write_store(case, tmp_path))
    ids = np.concatenate([case.ids[2], case.ids[4]])
    store.batch([2, 4], [5, 4], ids)
    with pytest.raises(InputError, match="sentence 4 has 4 tokens in the store and 3 in the"):
        store.batch([2, 4], [5, 3])
    with pytest.raises(InputError, match="sentence 4 of the batch is not the one"):
        store.batch([2, 4], [5, 4], np.concatenate([case.ids[2], case.ids[4][::-1]]))
    for sentence in (7, -1):
        with pytest.raises(InputError, match=f"sentences 0 to 6, and {sentence} was asked"):
            store.batch([sentence])


def test_sentences_that_were_left_out(tmp_path: Path) -> None:
    case = make_case()
    case.left_out = {3, 4, 5, 6}  # all of a shard among them
    folder = write_store(case, tmp_path)
    store = TargetStore.open(folder)
    assert store.manifest["left_out"] == 4
    assert [store.length(n) for n in range(7)] == case.lengths
    assert len(store.batch([0, 3, 1])) == 4
    with pytest.raises(InputError, match="sentence 3 was left out"):
        store.batch([0, 3], [3, 2])
    assert problems_of(folder) == []
    assert describe(store)["left_out"] == 4
    case.left_out = set(range(7))
    with pytest.raises(InputError, match="no sentence of the corpus has targets"):
        write_store(case, tmp_path / "none")


# --- opening ----------------------------------------------------------------------------------


def test_another_dictionary_is_named_with_its_first_difference(tmp_path: Path) -> None:
    case = make_case()
    folder = write_store(case, tmp_path)
    symbols = list(case.plan.symbols)
    assert TargetStore.open(folder, dictionary_symbols=symbols).tokens == sum(case.lengths)
    with pytest.raises(InputError, match=r"41 here; entry 40 is nothing in the store and 'more'"):
        TargetStore.open(folder, dictionary_symbols=[*symbols, "more"])
    symbols[7] = "other"
    with pytest.raises(InputError, match=r"entry 7 is 'piece7' in the store and 'other' here"):
        TargetStore.open(folder, dictionary_symbols=symbols)


def test_other_data_are_named_with_the_first_sentence(tmp_path: Path) -> None:
    case, other = make_case(), make_case()
    folder = write_store(case, tmp_path)
    store = TargetStore.open(folder, data=case.plan.fingerprint.data)
    other.ids[5][2] += 1
    changed = make_case(lengths=(3, 1, 5)).plan.fingerprint.data
    with pytest.raises(InputError, match="sentences: the store has 7, here it is 3"):
        TargetStore.open(folder, data=changed)
    data = case.plan.fingerprint.data
    data = replace(data, target=replace(data.target, sha256="0" * 64))
    with pytest.raises(InputError, match=r"target sha256.*\n.*first sentence that differs is 5"):
        store.check_data(data, lambda n: (case.ids[n], other.ids[n]))


def test_no_store_and_unfinished_stores(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no target store"):
        TargetStore.open(tmp_path / "absent")
    case = make_case()
    with locked(tmp_path):
        writer = StoreWriter(tmp_path, case.plan)
        write_shard(tmp_path, build_shard(case, 1))
        with pytest.raises(InputError, match="not finished"):
            TargetStore.open(tmp_path)
        with pytest.raises(InputError, match=r"shards \[0, 2\] are yet to be written"):
            writer.finish()


def test_other_versions_and_damaged_manifests(tmp_path: Path) -> None:
    folder = write_store(make_case(), tmp_path)
    manifest = folder / "manifest.json"
    record = json.loads(manifest.read_text())
    for change, message in (
        ({"version": 2}, "version 2 of the format"),
        ({"format": "another"}, "found something else"),
        ({"settings": {"vocabulary_size": 40}}, "damaged"),
    ):
        manifest.write_text(json.dumps(record | change))
        with pytest.raises(InputError, match=message):
            TargetStore.open(folder)
    manifest.write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        TargetStore.open(folder)
    with pytest.raises(InputError, match="size or sha256"):
        TargetStore.open(folder, verify="thoroughly")


# --- damage -----------------------------------------------------------------------------------


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    case = make_case(V=12, top_k=3, lengths=(2, 1, 2), shard_sentences=2, for_end2=True)
    folder = write_store(case, tmp_path)
    path = folder / "shards" / "00000.safetensors"
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    entries = json.loads(good[8:header])
    silent = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        begin, end = (header + offset for offset in entry["data_offsets"])
        for place in range(begin, end, 3):
            bad = bytearray(good)
            bad[place] ^= 1 << (place % 8)
            path.write_bytes(bad)
            store = TargetStore.open(folder)
            message = complaint(store, [0, 1])
            if message is None:
                silent[name] = place
            else:
                assert "00000.safetensors" in message
                assert "delete this file and repeat" in message
    # What no batch reads: sums of the prior, and the data's checksums, which only a training's
    # sentences are compared with.
    assert set(silent) <= {"tail_sums", "tail_weights", "log_sums", "data_checksums"}
    for place in silent.values():
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bad)
        first, second = problems_of(folder)
        assert "SHA-256" in first
        assert "every sentence is whole" in second


def test_a_damaged_sentence_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    case = make_case()
    folder = write_store(case, tmp_path)
    path = folder / "shards" / "00001.safetensors"
    mapped = MappedTensors(path)
    bad = bytearray(path.read_bytes())
    begin = json.loads(bad[8 : 8 + int.from_bytes(bad[:8], "little")])["probs"]["data_offsets"][0]
    token = int(mapped.arrays["token_offsets"][1])  # the first of the shard's second sentence
    bad[8 + int.from_bytes(bad[:8], "little") + begin + token * 8 * 2] ^= 4
    path.write_bytes(bad)
    store = TargetStore.open(folder)
    store.batch([0, 1, 2, 3, 5, 6])
    with pytest.raises(InputError, match=r"00001\.safetensors: sentence 4 is damaged"):
        store.batch([3, 4])
    with pytest.raises(InputError, match=r"00001\.safetensors: damaged: its SHA-256"):
        TargetStore.open(folder, verify="sha256")
    problems = problems_of(folder)
    assert len(problems) == 2
    assert "sentence 4 is damaged" in problems[1]


def test_truncated_replaced_and_missing_files(tmp_path: Path) -> None:
    case = make_case()
    folder = write_store(case, tmp_path)
    path = folder / "shards" / "00002.safetensors"
    good = path.read_bytes()
    for size in range(0, len(good), 97):
        path.write_bytes(good[:size])
        with pytest.raises(InputError, match=rf"00002.*found {size}: truncated"):
            TargetStore.open(folder)
        with pytest.raises(InputError, match=r"truncated|empty"):
            MappedTensors(path)
    path.unlink()
    with pytest.raises(InputError, match=r"00002\.safetensors: missing"):
        TargetStore.open(folder)
    # A shard of the same size, of another place.
    write_store(make_case(lengths=(3, 1, 5, 3, 1, 5), seed=4), tmp_path / "other")
    other = tmp_path / "other" / "shards"
    shutil.copyfile(other / "00000.safetensors", other / "00001.safetensors")
    with pytest.raises(InputError, match="not shard 1 of this store"):
        TargetStore.open(tmp_path / "other").batch([3])
    for name in ("prior.safetensors", "vocabulary.json"):
        write_store(case, folder)
        damaged = folder / name
        bad = bytearray(damaged.read_bytes())
        bad[-5] ^= 1
        damaged.write_bytes(bad)
        with pytest.raises(InputError, match=rf"{name}: damaged"):
            TargetStore.open(folder)
        damaged.unlink()


def test_repeating_the_command_repairs_and_changes_nothing_else(tmp_path: Path) -> None:
    case = make_case(for_end2=True)
    folder = write_store(case, tmp_path)
    before = contents(folder)
    for name in ("shards/00001.safetensors", "prior.safetensors", "vocabulary.json"):
        (folder / name).unlink()
    (folder / "shards" / "00002.safetensors").write_bytes(b"cut")
    (folder / "shards" / f"00000.safetensors.{os.getpid()}.part").write_bytes(b"half")
    write_store(case, folder)
    assert contents(folder) == before


# --- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "between 1 and the vocabulary's 40 entries, got 0"),
        ({"top_k": 41}, "got 41; k = 40 keeps everything"),
        ({"top_k": -3}, "got -3"),
        ({"top_k": None}, "either a number of pieces"),
        ({"top_k": 4, "tail_bound": 0.1}, "either a number of pieces"),
        ({"tail_bound": 1.0}, "in \\[0, 1\\), got 1"),
        ({"tail_bound": 0.1, "max_k": 41}, "the largest k"),
        ({"top_k": 4, "max_k": 5}, "an adaptive one"),
        ({"top_k": 4, "dtype": "int8"}, "float16, float32"),
        ({"top_k": 4, "temperature": 0.0}, "temperature above 0"),
        ({"top_k": 4, "shard_sentences": 0}, "1 sentence a shard"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StoreSettings(
            40, 3, **({"top_k": None} | settings if "tail_bound" in settings else settings)
        )  # type: ignore[arg-type]


def test_a_corpus_without_sentences(tmp_path: Path) -> None:
    case = make_case(lengths=())
    with pytest.raises(InputError, match="no sentences"):
        StoreWriter(tmp_path, case.plan)


def test_going_on_with_something_else_names_what_differs(tmp_path: Path) -> None:
    case = make_case()
    with locked(tmp_path):
        StoreWriter(tmp_path, case.plan)
        write_shard(tmp_path, build_shard(case, 0))

    def refused(plan: object) -> str:
        with locked(tmp_path), pytest.raises(InputError) as caught:
            StoreWriter(tmp_path, plan)  # type: ignore[arg-type]
        return str(caught.value)

    plan = case.plan
    message = refused(replace(plan, settings=replace(plan.settings, top_k=9)))
    assert "settings top_k: the store has 8, here it is 9" in message
    assert "--overwrite" in message
    teachers = (*plan.fingerprint.teachers[:2], TeacherPrint("new.pt", "f" * 64))
    message = refused(replace(plan, fingerprint=replace(plan.fingerprint, teachers=teachers)))
    expected = "teachers 3 sha256: the store has 000000000000…, here it is ffffffffffff… (2.pt)"
    assert expected in message
    message = refused(replace(plan, fingerprint=replace(plan.fingerprint, teachers=teachers[:2])))
    assert "teachers: the store has 3, here there are 2" in message
    other = make_case(lengths=(3, 1, 5, 2, 4, 6, 2)).plan
    message = refused(replace(plan, fingerprint=other.fingerprint))
    assert "data source tokens: the store has 22, here it is 23" in message
    message = refused(make_case(V=41).plan)
    assert "entry 40 is nothing in the store and 'piece40' here" in message
    # The same teachers under other names are the same.
    renamed = tuple(TeacherPrint("x" + t.name, t.sha256) for t in plan.fingerprint.teachers)
    same = replace(plan, fingerprint=replace(plan.fingerprint, teachers=renamed))
    write_store(Case(same, case.ids, case.statistics), tmp_path)
    assert len(whole(TargetStore.open(tmp_path))) == sum(case.lengths)


def test_two_writers_on_one_store(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from seqdistill.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        with (
            pytest.raises(InputError, match=f"process {other.pid} is writing this folder"),
            locked(tmp_path),
        ):
            pass
    finally:
        other.communicate("")
    with locked(tmp_path):  # the lock went with its process
        pass


_FULL_DISK = """
import pickle, resource, sys
from pathlib import Path
from seqdistill.errors import InputError
from seqdistill.files import locked, write_whole
from tests.unit.store_cases import make_case, write_store
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_store(make_case(V=200, top_k=100), Path(sys.argv[1]))
except InputError as error:
    print(error)
    sys.exit(3)
"""


def test_a_full_disk_leaves_no_half_shard_and_can_be_resumed(tmp_path: Path) -> None:
    case = make_case(V=200, top_k=100)
    whole_store = contents(write_store(case, tmp_path / "whole"))
    limit = len(whole_store["shards/00000.safetensors"]) + 10  # the second one is larger
    assert len(whole_store["shards/00001.safetensors"]) > limit
    folder = tmp_path / "cut"
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(folder), str(limit)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "00001.safetensors" in done.stdout
    assert "could not be written" in done.stdout
    assert "repeat the same command" in done.stdout
    left = sorted(contents(folder))
    assert left == [
        "plan.json", "shards/00000.json", "shards/00000.safetensors", "vocabulary.json"
    ]  # fmt: skip
    written = (folder / "shards" / "00000.safetensors").stat().st_mtime_ns
    write_store(case, folder)
    assert contents(folder) == whole_store
    assert (folder / "shards" / "00000.safetensors").stat().st_mtime_ns == written


def test_a_crash_between_a_shard_and_its_note(tmp_path: Path) -> None:
    case = make_case()
    expected = contents(write_store(case, tmp_path / "whole"))
    folder = tmp_path / "crashed"
    with locked(folder):
        StoreWriter(folder, case.plan)
    (folder / "shards" / "00000.safetensors").write_bytes(b"not checked by anything yet")
    write_store(case, folder)
    assert contents(folder) == expected


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    refuse_foreign(tmp_path / "absent")
    refuse_foreign(tmp_path)
    folder = write_store(make_case(), tmp_path / "store")
    refuse_foreign(folder)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"not empty \(store\) and no store"):
        refuse_foreign(tmp_path)
    (folder / "thesis.tex").write_text("years of work")
    with locked(folder), pytest.raises(InputError, match=r"thesis\.tex, which no store has"):
        clear(folder)
    assert TargetStore.open(folder).sentences == 7
    (folder / "thesis.tex").unlink()
    with locked(folder):
        clear(folder)
        assert contents(folder) == {}


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"first")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", b"second")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_tensor_files_are_plain_safetensors(tmp_path: Path) -> None:
    import safetensors.numpy

    arrays = {
        "a": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "b": np.zeros((0, 4), np.float16),
        "c": np.array([1.5]),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensors_to_bytes(arrays, {"shard": 1, "columns": ["ä"]}))
    mapped = MappedTensors(path)
    assert mapped.metadata == {"shard": 1, "columns": ["ä"]}
    for name, array in safetensors.numpy.load_file(path).items():
        np.testing.assert_array_equal(array, arrays[name])
        np.testing.assert_array_equal(mapped.arrays[name], arrays[name])
        assert not mapped.arrays[name].flags.writeable
    for text in (
        b"",
        b"short",
        b"\xff" * 40,
        (1).to_bytes(8, "little") + b"[",
        b"\2" + bytes(7) + b"[]",
    ):
        path.write_bytes(text)
        with pytest.raises(InputError, match=r"truncated|empty"):
            MappedTensors(path)


# --- several processes ------------------------------------------------------------------------


class Numbers:
    """Work whose units write which worker did them, once there are as many workers as units."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.workers = workers

    def prepare(self) -> Callable[[int], Iterator[int]]:
        def do(unit: int) -> Iterator[int]:
            (self.folder / str(unit)).write_text(str(worker_number()))
            until = time.monotonic() + 60
            while len(list(self.folder.iterdir())) < self.workers and time.monotonic() < until:
                time.sleep(0.01)
            yield 1

        return do


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_have_numbers_by_which_they_choose_a_gpu(tmp_path: Path, workers: int) -> None:
    assert sum(do_units(Numbers(tmp_path, workers), range(workers), workers)) == workers
    found = sorted(path.read_text() for path in tmp_path.iterdir())
    assert found == [str(number) for number in range(workers)]
    assert worker_number() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_the_units(tmp_path: Path, workers: int) -> None:
    assert sum(do_units(Squares(tmp_path), range(5), workers)) == 15
    assert multiprocessing.active_children() == []
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        str(n): str(n * n) for n in range(5)
    }
    assert list(do_units(Squares(tmp_path), [], workers)) == []


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        ("input", InputError, "^unit 2 is bad$"),
        ("bug", RuntimeError, "a worker failed:\n(.*\n)*.*ZeroDivisionError: a bug"),
        ("killed", InputError, "exit status -9; -9 is often a lack of memory"),
    ],
)
def test_a_worker_that_fails(
    tmp_path: Path, failure: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        list(do_units(Squares(tmp_path, {2: failure}), [2], 2))
    assert not (tmp_path / "2").exists()
    assert multiprocessing.active_children() == []
