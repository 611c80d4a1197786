"""Hidden states: compression, which are kept, the store's files, and the loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.hidden_states import hidden_state_loss
from seqdistill.targets.states import (
    Compression,
    StateMoments,
    StatePlan,
    StateShard,
    StateStore,
    StateWriter,
    choose_places,
    matching_layer,
    read_layers,
)
from seqdistill.targets.states.reader import vars_of
from seqdistill.targets.store import DataPrint, SidePrint, TeacherPrint, sentence_checksum


def states(n: int = 400, seed: int = 1) -> Tensor:
    """States in 6 numbers, of which three directions matter; far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([9.0, 4.0, 1.0, 0.1, 0.05, 0.01])
    turned, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    return torch.randn(n, 6, generator=generator) * sizes @ turned + 100


def moments(rows: Tensor, parts: int = 1) -> StateMoments:
    found = StateMoments(rows.shape[1])
    for part in rows.tensor_split(parts):
        found.add(part)
    return found


def test_the_map_loses_as_little_as_it_can() -> None:
    rows = states()
    compression = moments(rows).compression(3)
    _, singular, directions = torch.linalg.svd((rows - rows.mean(0)).double(), full_matrices=False)
    explained = singular[:3].square().sum() / singular.square().sum()
    assert compression.explained == pytest.approx(float(explained), rel=1e-5)
    kept = compression.encode(rows)
    assert float(kept.square().mean()) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(kept.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    expected = (rows - rows.mean(0)).double() @ directions[:3].T @ directions[:3] + rows.mean(0)
    torch.testing.assert_close(compression.decode(kept), expected.float(), rtol=1e-4, atol=1e-3)
    whole = moments(rows).compression(6)
    torch.testing.assert_close(whole.decode(whole.encode(rows)), rows, rtol=1e-4, atol=1e-3)


def test_batches_are_added_as_if_they_were_one() -> None:
    rows = states()
    one, many = (moments(rows, parts).compression(4) for parts in (1, 7))
    torch.testing.assert_close(one.directions, many.directions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.mean, many.mean)
    assert one.explained == pytest.approx(many.explained, rel=1e-6)


def test_states_that_cannot_be_compressed() -> None:
    with pytest.raises(InputError, match="expected a width from 1 to the states' own, 6, got 7"):
        moments(states()).compression(7)
    with pytest.raises(InputError, match="3 states do not show 3 directions"):
        moments(states(3)).compression(3)
    with pytest.raises(InputError, match="the same everywhere"):
        moments(torch.ones(9, 4)).compression(2)
    with pytest.raises(InputError, match="not finite"):
        moments(torch.full((3, 2), float("nan")))


def test_places() -> None:
    ids, frequencies = np.array([5, 6, 5, 7, 2]), np.array([0, 0, 9, 0, 0, 4, 1, 1])
    assert choose_places(ids, None, "rare", frequencies).tolist() == [0, 1, 2, 3, 4]
    assert choose_places(ids, 9, "even", frequencies).tolist() == [0, 1, 2, 3, 4]
    assert choose_places(ids, 2, "rare", frequencies).tolist() == [1, 3]
    assert choose_places(ids, 3, "rare", frequencies).tolist() == [0, 1, 3]
    assert choose_places(ids, 3, "even", frequencies).tolist() == [0, 2, 4]
    assert choose_places(ids, 1, "even", frequencies).tolist() == [0]


def test_layers() -> None:
    depths = {"encoder": 6, "decoder": 3}
    assert read_layers("encoder.last, decoder.1", depths) == ("encoder.6", "decoder.1")
    for bad in ("encoder", "encoder.0", "decoder.4", "middle.1", "", "encoder.-1"):
        with pytest.raises(InputError, match=r"this model has encoder.1 to encoder.6, decoder.1"):
            read_layers(bad, depths)
    with pytest.raises(InputError, match="named twice"):
        read_layers("encoder.6,encoder.last", depths)
    assert [matching_layer(n, 6, 6) for n in range(1, 7)] == [1, 2, 3, 4, 5, 6]
    assert [matching_layer(n, 6, 2) for n in range(1, 7)] == [1, 1, 1, 1, 2, 2]
    assert [matching_layer(n, 2, 6) for n in (1, 2)] == [3, 6]


IDS = [
    (np.array([4, 5, 2]), np.array([6, 2])),
    (np.array([7, 2]), np.array([8, 9, 4, 2])),
    (np.array([4, 4, 4, 2]), np.array([5, 2])),
]


def plan(**changes: Any) -> StatePlan:
    values: dict[str, Any] = {
        "teachers": (TeacherPrint("a.pt", "0" * 64),),
        "depths": {"encoder": 2, "decoder": 2},
        "widths": {"encoder": 6, "decoder": 6},
        "layers": ("encoder.2", "decoder.1"),
        "data": DataPrint(3, SidePrint(9, "1" * 64), SidePrint(8, "2" * 64)),
        "subset": "train",
        "width": 2,
        "shard_sentences": 2,
    }
    return StatePlan(**(values | changes))


def write(folder: Path, made: StatePlan) -> dict[str, dict[int, Tensor]]:
    """Write a store; return what was kept, by channel and sentence."""
    folder.mkdir(exist_ok=True)
    writer = StateWriter(folder, made)
    compression = moments(states()).compression(made.width)
    writer.write_compressions(dict.fromkeys(made.channels, compression))
    kept: dict[str, dict[int, Tensor]] = {channel: {} for channel in made.channels}
    generator = torch.Generator().manual_seed(2)
    for index in range(made.shards):
        sentences = made.sentences_of(index)
        shard = StateShard(made, index, [sentence_checksum(*IDS[s]) for s in sentences])
        for s in reversed(sentences):  # in any order
            if s == 1:
                continue  # too long for the teachers, say
            for side, ids in zip(("encoder", "decoder"), IDS[s], strict=True):
                shard.add_places(side, s, np.arange(0, len(ids), 2))
                for channel in made.channels:
                    if side in channel:
                        count = len(range(0, len(ids), 2))
                        kept[channel][s] = torch.randn(count, made.width, generator=generator)
                        shard.add(channel, s, kept[channel][s])
        shard.write(folder)
    writer.finish()
    return kept


def test_a_batch_has_what_was_written(tmp_path: Path) -> None:
    kept = write(tmp_path / "store", plan())
    store = StateStore.open(tmp_path / "store")
    assert store.plan == plan()
    order = [2, 1, 0]
    batch = store.batch(order, [IDS[s][0] for s in order], [IDS[s][1] for s in order])
    # Sentence 2 has 4 and 2 tokens, sentence 1 (2 and 4) is not there, then comes sentence 0.
    assert batch.rows["encoder"].tolist() == [0, 2, 6, 8]
    assert batch.rows["decoder"].tolist() == [0, 6]
    assert store.counts == {"encoder": 4, "decoder": 2}
    for channel, rows in kept.items():
        expected = torch.cat([rows[2], rows[0]])
        torch.testing.assert_close(batch.states[channel], expected, rtol=1e-3, atol=1e-3)
    explained = store.compressions["0.encoder.2"].explained
    assert explained == pytest.approx(moments(states()).compression(2).explained)


def test_bad_stores(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with pytest.raises(InputError, match="no finished store of states"):
        StateStore.open(folder)
    write(folder, plan())
    store = StateStore.open(folder)
    with pytest.raises(InputError, match="sentence 0 of the training is not the one"):
        store.batch([0], [IDS[1][0]], [IDS[0][1]])
    other = DataPrint(4, SidePrint(9, "1" * 64), SidePrint(8, "2" * 64))
    with pytest.raises(InputError, match="data sentences: the store has 3, here it is 4"):
        store.check_data(other)
    store.check_data(plan().data)
    assert vars_of(other)["sentences"] == 4
    with pytest.raises(InputError, match="width: the store has 2, here it is 1"):
        StateWriter(folder, plan(width=1))
    shard = folder / "shards" / "00001.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-8])
    with pytest.raises(InputError, match="missing or cut"):
        StateStore.open(folder)
    assert StateWriter(folder, plan()).missing() == [1]
    shard.write_bytes((folder / "shards" / "00000.safetensors").read_bytes())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="is not empty and no store of states"):
        StateWriter(tmp_path / "other", plan())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"choice": "odd"}, "rare or even"),
        ({"width": 7}, "have 6 numbers, so 7 cannot be kept"),
        ({"width": 0}, "width of 1 or more"),
        ({"positions": 0}, "1 position or more"),
    ],
)
def test_bad_plans(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan(**changes)


def test_the_loss_is_half_the_mean_square() -> None:
    mapped = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    total, count = hidden_state_loss(mapped, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert float(total.detach()) == pytest.approx(0.5 * (1 + 4) / 2 + 0.5 / 2)
    assert int(count) == 2
    total.backward()
    torch.testing.assert_close(mapped.grad, torch.tensor([[0.5, 1.0], [0.0, -0.5]]))
    with pytest.raises(InputError, match="one shape"):
        hidden_state_loss(mapped, torch.zeros(2, 3))


def test_the_best_linear_map_leaves_what_is_not_explained() -> None:
    rows = states()
    kept = moments(rows).compression(2).encode(rows)
    part = moments(rows).compression(1).encode(rows)  # the first direction, at another scale
    solution = torch.linalg.lstsq(part, kept).solution
    total, count = hidden_state_loss(part @ solution, kept)
    left = 1 - 2 * float(total) / int(count)
    one, two = (moments(rows).compression(w).explained for w in (1, 2))
    assert left == pytest.approx(one / two, rel=1e-3)


def test_arrays_are_read_back() -> None:
    compression = moments(states()).compression(3)
    again = Compression.from_arrays(compression.to_arrays())
    torch.testing.assert_close(again.encode(states()), compression.encode(states()))
