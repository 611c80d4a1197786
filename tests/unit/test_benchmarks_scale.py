"""The benchmarks of planning and scale: what they write, and what they say of it."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks import plan, scale
from benchmarks.scale_rank import Counter, _bytes
from fairseq_plugins.teachers import translation_loader
from seqdistill.planning import memory, traffic
from seqdistill.planning.checkpoints import checkpoint_size


def test_data_and_teachers_are_fairseqs(tmp_path: Path) -> None:
    from fairseq.data import Dictionary, data_utils

    data, teachers = scale.make_data(tmp_path, scale.QUICK.sizes, 3)
    dictionary = Dictionary.load(str(data / "dict.en.txt"))
    assert len(dictionary) == scale.QUICK.sizes["V"]
    found = data_utils.load_indexed_dataset(str(data / "train.en-de.de"), dictionary)
    assert [len(found[i]) for i in range(len(found))] == [scale.LENGTH] * 3
    size, V = checkpoint_size(str(teachers[0]))
    assert (size.decoder.width, V) == (scale.QUICK.sizes["width"], scale.QUICK.sizes["V"])
    load = translation_loader(dictionary, dictionary)
    assert sum(p.numel() for p in load(str(teachers[1])).parameters()) > 0


def test_bytes_of_collectives_are_of_the_whole() -> None:
    import torch

    part, whole = torch.zeros(3), [torch.zeros(3), torch.zeros(3)]
    assert (_bytes(part), _bytes(whole), _bytes("group")) == (12, 24, 0)
    counter = Counter()
    gather = counter._counting("all_gather", lambda *given: None)
    begun = counter.begin()
    gather(whole, part)
    gather(whole, part)
    counter.end(begun)
    assert counter.updates == [{"all_gather": [2, 48]}]
    assert scale.sent_bytes(counter.updates[0], 2) == 24
    assert scale.sent_bytes({"all_reduce": [1, 48]}, 2) == 48
    assert scale.sent_bytes({"all_reduce": [1, 48]}, 1) == 0


def test_rows_of_scale() -> None:
    cell = {
        "stage": 1, "ranks": 1, "peak_bytes": [2 << 20, 4 << 20], "predicted_bytes": 3 << 20,
        "sent_bytes": 0, "predicted_sent_bytes": 0, "seconds": 1.0, "cpu_seconds": 1.0,
    }  # fmt: skip
    first, second = scale.flat_rows([cell, {**cell, "ranks": 2, "seconds": 2.0}])
    assert first["predicted_over_measured"] == 0.75
    assert first["weak_scaling"] == 1
    assert second["weak_scaling"] == 0.5
    assert "weak_scaling" in scale.table([first, second])


def test_plans_of_the_benchmark() -> None:
    alone, both = (scale.planned(scale.MODELS["fitted"], 2, ranks, 1e6) for ranks in (1, 2))
    assert memory(both).total < memory(alone).total
    assert traffic(alone).gradients == 0
    assert traffic(both).gradients > 0


def test_rows_of_plan() -> None:
    pair = {"measured": 2.0, "predicted": 1.0}
    rows = plan.flat_rows({"one": {"peak_bytes": pair, "seconds": {"update": pair}}})
    assert [row["predicted_over_measured"] for row in rows] == [0.5, 0.5]
    assert "0.50" in plan.table(rows)


@pytest.mark.parametrize("name", ["plan", "scale", "scale-wider", "scale-wider-bfloat16"])
def test_results_say_where_they_are_from(name: str) -> None:
    folder = Path(plan.__file__).parent / "results"
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert record["command"].startswith(f"python -m benchmarks.{name.partition('-')[0]}")
    assert {"commit", "hardware", "versions", "threads"} <= record.keys()
    with (folder / f"{name}.csv").open(encoding="utf-8") as handle:
        assert all(float(row["predicted_over_measured"]) > 0 for row in csv.DictReader(handle))
