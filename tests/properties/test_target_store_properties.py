"""What holds for every store: mass, order, width, and the container."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqdistill.records import differences
from seqdistill.targets.store import TargetStore
from seqdistill.targets.store.coding import (
    decode_log_probs,
    decode_probs,
    encode_log_probs,
    encode_probs,
)
from seqdistill.targets.store.files import MappedTensors, tensors_to_bytes
from seqdistill.targets.store.fingerprint import SideHasher
from seqdistill.targets.store.prior import combine
from tests.unit.store_cases import Case, make_case, write_store

UNCERTAINTIES = ("total_uncertainty", "mutual_information", "reverse_mutual_information")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    V = draw(st.integers(2, 30))
    settings: dict[str, object] = {}
    if draw(st.booleans()):
        settings["top_k"] = draw(st.integers(1, V))
    else:
        settings["tail_bound"] = draw(st.sampled_from([0.0, 1e-3, 0.1, 0.6]))
        settings["max_k"] = draw(st.integers(1, V))
    settings["dtype"] = draw(st.sampled_from(["float16", "float32"]))
    settings["for_end2"] = draw(st.booleans())
    settings["shard_sentences"] = draw(st.integers(1, 5))
    return make_case(
        V=V,
        lengths=tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))),
        members=draw(st.integers(2, 4)),
        seed=draw(st.integers(0, 100)),
        sharpness=draw(st.sampled_from([0.0, 1.0, 6.0])),
        **settings,
    )


@given(case=cases(), data=st.data())
def test_a_store_gives_distributions_with_the_ensembles_uncertainties(
    case: Case, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(case.ids))))
    with tempfile.TemporaryDirectory() as folder:
        store = TargetStore.open(write_store(case, Path(folder)))
        target = store.batch(order, [case.lengths[n] for n in order])
    full = case.full(order)
    dense = target.mean_probs()
    assert bool((dense >= 0).all())
    torch.testing.assert_close(dense.sum(-1), torch.ones(len(dense)), rtol=0, atol=2e-6)
    for name in UNCERTAINTIES:
        assert torch.equal(getattr(target, name), case.full(order, name))
    assert torch.equal(target.epkl, case.full(order, "epkl"))

    # The pieces are the likeliest, and right to the stored precision.
    K = target.pieces.shape[1]
    torch.testing.assert_close(
        target.probs.sort(descending=True).values[:, 0],
        full.max(-1).values,
        rtol=2**-10,
        atol=1e-9,
    )
    own = full.gather(1, target.pieces)
    torch.testing.assert_close(target.probs, own, rtol=2**-9, atol=1e-9)
    tail = 1 - torch.zeros_like(full).scatter(1, target.pieces, own).double().sum(-1)
    torch.testing.assert_close(target.tail_mass.double(), tail, rtol=1e-3, atol=1e-6)
    assert bool((target.prior > 0).all())
    bound = case.plan.settings.tail_bound
    if bound is not None and case.plan.settings.max_k == case.plan.settings.vocabulary_size:
        assert bool((target.tail_mass <= bound + 1e-6).all())
    if full.shape[1] == K and bound is None:
        torch.testing.assert_close(dense, full, rtol=2**-10, atol=1e-9)

    if case.plan.settings.for_end2:
        log_probs = case.full(order, "mean_log_probs")
        approximate = target.mean_log_probs()
        torch.testing.assert_close(approximate.sum(-1), log_probs.sum(-1), rtol=1e-3, atol=1e-3)


@given(
    exponents=st.lists(st.floats(-12, 0), min_size=1, max_size=20),
    gap=st.floats(0, 30),
)
def test_stored_numbers_come_back(exponents: list[float], gap: float) -> None:
    probs = torch.tensor([10**exponent for exponent in exponents])
    log_probs = probs.log() - gap
    for dtype, relative, absolute in (("float16", 2**-11, 2**-40), ("float32", 0.0, 0.0)):
        stored = encode_probs(probs, dtype, keep_positive=True)
        plain = decode_probs(stored)
        torch.testing.assert_close(plain, probs, rtol=relative, atol=absolute)
        back = decode_log_probs(encode_log_probs(log_probs, stored), plain)
        limit = 0.0 if dtype == "float32" else 2**-10 * (gap + 1)
        torch.testing.assert_close(back, log_probs, rtol=1e-6, atol=limit)


@given(
    shapes=st.dictionaries(
        st.text("abcdef_", min_size=1, max_size=8),
        st.tuples(
            st.sampled_from(["<u2", "<u4", "<f2", "<f4", "<f8", "<i8"]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=5,
    ),
    note=st.text(max_size=20),
)
def test_tensor_files_come_back(shapes: dict[str, tuple[str, list[int]]], note: str) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.integers(0, 1000, shape).astype(dtype)
        for name, (dtype, shape) in shapes.items()
    }
    data = tensors_to_bytes(arrays, {"note": note})
    assert data == tensors_to_bytes(dict(reversed(arrays.items())), {"note": note})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(data)
        mapped = MappedTensors(path)
    assert mapped.metadata == {"note": note}
    assert mapped.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(mapped.arrays[name], array)
        assert mapped.arrays[name].dtype == array.dtype


@given(
    sentences=st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=5), max_size=8),
    cuts=st.lists(st.integers(0, 8), max_size=3),
)
def test_a_print_depends_on_sentences_and_not_on_how_they_are_fed(
    sentences: list[list[int]], cuts: list[int]
) -> None:
    def printed(parts: list[list[list[int]]]) -> object:
        hasher = SideHasher()
        for part in parts:
            ids = np.array([i for sentence in part for i in sentence], np.int64)
            hasher.add(ids, [len(sentence) for sentence in part])
        return hasher.result()

    edges = sorted({0, len(sentences), *(min(cut, len(sentences)) for cut in cuts)})
    parts = [sentences[a:b] for a, b in itertools.pairwise(edges)]
    assert printed(parts) == printed([sentences])
    if len(sentences) > 1 and sentences[0]:
        moved = [sentences[0][:-1], [sentences[0][-1], *sentences[1]], *sentences[2:]]
        assert printed([moved]) != printed([sentences])


records = st.recursive(
    st.integers(0, 3) | st.sampled_from(["a", None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
)


@given(a=records, b=records)
def test_equal_records_have_no_differences_and_others_have(a: object, b: object) -> None:
    assert differences(a, a) == []
    # A missing entry and None are one: neither says anything.
    if without_none(a) != without_none(b):
        assert differences(a, b)


def without_none(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


@given(
    V=st.integers(1, 12),
    parts=st.integers(1, 4),
    seed=st.integers(0, 50),
)
def test_the_prior_of_parts_is_that_of_the_whole(V: int, parts: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    sums = []
    for _ in range(parts):
        weights = generator.random(V) * (generator.random(V) < 0.7)
        sums.append({"tail_sums": weights * generator.random(V), "tail_weights": weights})
    total = {name: np.sum([part[name] for part in sums], axis=0) for name in sums[0]}
    prior = combine(sums, 5)["prior"]
    np.testing.assert_allclose(prior, combine([total], 5)["prior"], rtol=1e-5)
    assert (prior > 0).all()
    assert abs(float(prior.sum(dtype=np.float64)) - 1) < 1e-6
    used = total["tail_sums"] > 0
    if used.any():
        share = total["tail_sums"][used] / total["tail_weights"][used]
        np.testing.assert_allclose(
            prior[used] / prior[used].max(), np.maximum(share / share.max(), 1e-12), rtol=1e-5,
            atol=1e-8,
        )  # fmt: skip
