"""The benchmarks run, write what they say, and have a faithful baseline. Nothing is timed."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import loss, loss_report, stability, step, step_report
from benchmarks.common import text_table
from benchmarks.inputs import describe_teachers, make_inputs, member_logits
from benchmarks.ours import LOSS, stored_target
from benchmarks.random_store import random_store
from benchmarks.released_criterion import (
    gather_member_logits,
    released_criterion,
    released_statistics,
    released_student_loss,
)
from benchmarks.runaway import PLACES, exact_gradient, runaway_row
from benchmarks.sides import Cell, estimated_bytes, side, side_names
from benchmarks.timing import ChildFailedError, in_fresh_process, interleaved, peak_bytes_of
from seqdistill.errors import InputError
from seqdistill.losses import proxy_dirichlet_loss
from seqdistill.targets import proxy_dirichlet_target
from seqdistill.teachers import ensemble_statistics
from tests.reference import losses as exact_losses

ENVIRONMENT = {"schema_version", "command", "commit", "hardware", "versions", "threads", "device"}


# --- the baseline ---------------------------------------------------------------------------


def moderate_case(B: int = 2, T: int = 3, M: int = 4, V: int = 50) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    members = torch.randn(B, T, M, V, generator=generator) + 2 * torch.randn(
        B, T, 1, V, generator=generator
    )
    logits = 4 + 2 * torch.randn(B, T, V, generator=generator)
    references = torch.randint(V, (B, T), generator=generator)
    return members, logits.double().requires_grad_(), references


def ours(logits: torch.Tensor, members: torch.Tensor, **settings: Any) -> torch.Tensor:
    """The loss of this project, in float64."""
    log_probs = torch.log_softmax(members.double(), -1).permute(2, 0, 1, 3)
    target = proxy_dirichlet_target(ensemble_statistics(log_probs))
    return proxy_dirichlet_loss(logits, target, normalisation="total", **settings)[0]


def gradient_of(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, logits)[0]


def test_the_baseline_computes_this_projects_loss_at_moderate_logits() -> None:
    members, logits, references = moderate_case()
    released, logged = released_criterion(logits, members, references)
    expected = ours(logits, members)
    assert released.item() == pytest.approx(expected.item(), rel=1e-4)
    gradient, wanted = gradient_of(released, logits), gradient_of(expected, logits)
    assert float((gradient - wanted).norm() / wanted.norm()) < 1e-4
    nll = -torch.log_softmax(logits, -1).gather(-1, references.unsqueeze(-1)).sum()
    assert logged["nll_loss"] == pytest.approx(nll.item(), rel=1e-5)


def test_the_baseline_is_not_the_other_normalisation() -> None:
    """The comparison above can fail: with w = β̃₀ the two are far apart."""
    members, logits, references = moderate_case()
    released, _ = released_criterion(logits, members, references)
    log_probs = torch.log_softmax(members.double(), -1).permute(2, 0, 1, 3)
    target = proxy_dirichlet_target(ensemble_statistics(log_probs))
    other, _ = proxy_dirichlet_loss(logits, target, normalisation="proxy")
    gradient, wanted = gradient_of(released, logits), gradient_of(other, logits)
    assert float((gradient - wanted).norm() / wanted.norm()) > 1e-2


def test_the_baselines_measures_are_the_ensembles() -> None:
    members, _, _ = moderate_case()
    found = released_statistics(members)
    expected = ensemble_statistics(torch.log_softmax(members.double(), -1).permute(2, 0, 1, 3))
    for name, measure in (
        ("mkl", "reverse_mutual_information"),
        ("epkl", "epkl"),
        ("mutual_information", "mutual_information"),
        ("mean_probs", "mean_probs"),
    ):
        torch.testing.assert_close(
            getattr(found, name).double(), getattr(expected, measure), rtol=1e-5, atol=1e-6
        )


def test_the_baseline_leaves_padding_out() -> None:
    members, logits, references = moderate_case()
    padding = torch.zeros(logits.shape[:2], dtype=torch.bool)
    padding[0, 1] = True
    released, logged = released_criterion(logits, members, references, padding)
    assert released.item() == pytest.approx(
        ours(logits, members, token_mask=~padding).item(), rel=1e-4
    )
    assert not gradient_of(released, logits)[padding].any()
    assert logged["loss"] == released.item()


@pytest.mark.parametrize(("z", "is_lost"), [(20.0, False), (50.0, True)])
def test_the_baseline_loses_the_gradient_of_a_large_logit(z: float, is_lost: bool) -> None:
    row = runaway_row(1_000, z, "likely")
    gradient = stability.released(torch.float64)(
        row.spread(row.logits).float().unsqueeze(0), row.spread(row.probs).float(), row.rmi
    )
    exact = row.spread(exact_gradient(row))
    error = float((gradient[0].double() - exact).abs().max() / exact.abs().max())
    assert error > 0.5 if is_lost else error < 1e-4


def test_the_baseline_stops_where_the_research_code_stops() -> None:
    logits = torch.zeros(1, 1, 4)
    logits[0, 0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match="logits"):
        released_student_loss(logits, torch.full((1, 1, 4), 0.25), torch.ones(1, 1))


def test_member_logits_are_gathered_in_the_research_codes_order() -> None:
    members = [torch.randn(6, 5) for _ in range(3)]
    gathered = gather_member_logits(iter(members), 3, (2, 3, 5))
    assert gathered.shape == (2, 3, 3, 5)
    for m, logits in enumerate(members):
        assert torch.equal(gathered[:, :, m].reshape(6, 5), logits)


# --- inputs ---------------------------------------------------------------------------------


def test_synthetic_teachers_are_peaked_and_disagree_a_little() -> None:
    inputs = make_inputs(5_000, 4, 64, 128)
    facts = describe_teachers(inputs)
    assert 0.7 < facts["total_uncertainty"] < 1.6
    assert 0.75 < facts["top1"] < 0.95
    assert 0.015 < facts["rmi"] < 0.07


def test_shared_and_own_projections_give_members_of_the_same_logits() -> None:
    own = make_inputs(40, 3, 4, 16)
    shared = make_inputs(40, 3, 4, 16, shared_projection=True)
    assert len({id(member.weight) for member in own.members}) == 3
    assert len({id(member.weight) for member in shared.members}) == 1
    for a, b in zip(member_logits(own), member_logits(shared), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scope", ["S1", "S2"])
def test_ours_and_the_baseline_leave_the_same_gradients(scope: str) -> None:
    cell = Cell.of(scope, make_inputs(200, 3, 8, 32))
    gradients = {}
    for name in ("released", "eager_float32"):
        side(cell, name)()
        gradients[name] = {key: leaf.grad for key, leaf in cell.leaves().items()}
    for key, expected in gradients["released"].items():
        found = gradients["eager_float32"][key]
        assert expected is not None
        assert found is not None
        assert float((found - expected).norm() / expected.norm()) < 1e-4, key


def test_every_side_runs_and_leaves_its_gradients() -> None:
    for scope in ("S1", "S2"):
        cell = Cell.of(scope, make_inputs(60, 2, 8, 16))
        for name in side_names(scope, ["eager"]):
            cell.clear()
            side(cell, name)()
            grads = [leaf.grad for leaf in cell.leaves().values()]
            if name.startswith("products"):
                assert grads == [None] * len(grads)
            else:
                assert all(g is not None and bool(g.isfinite().all()) for g in grads), name


def test_a_stored_target_of_the_whole_vocabulary_is_the_ensemble() -> None:
    inputs = make_inputs(100, 3, 8, 16)
    expected = ensemble_statistics(
        torch.stack([torch.log_softmax(logits, -1) for logits in member_logits(inputs)])
    )
    stored = stored_target(inputs, 1_000)
    torch.testing.assert_close(stored.mean_probs(), expected.mean_probs, rtol=1e-5, atol=1e-7)
    alone = stored_target(make_inputs(100, 1, 8, 16), 5)
    assert float(alone.reverse_mutual_information.max()) < 1e-6
    cut = stored_target(inputs, 5)
    torch.testing.assert_close(cut.probs.sum(-1) + cut.tail_mass, torch.ones(8))


def test_a_random_store_is_read_in_any_order(tmp_path: Path) -> None:
    store = random_store(tmp_path / "store", V=300, M=2, T=4, sentences=20, distinct=3)
    assert store.tokens == 80
    batch = store.batch([19, 0, 7], [4, 4, 4])
    assert len(batch) == 12
    # Sentence 19 repeats sentence 1, and 7 too: 19 = 7 = 1 (mod 3).
    assert torch.equal(batch.pieces[:4], batch.pieces[8:])
    assert not torch.equal(batch.pieces[:4], batch.pieces[4:8])


# --- measuring ------------------------------------------------------------------------------


def test_alternatives_take_turns() -> None:
    calls: list[str] = []
    found = interleaved({name: (lambda n=name: calls.append(n)) for name in "abc"}, 3)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert all(len(t.cpu) == len(t.wall) == 3 and t.device is None for t in found.values())
    assert set(found["a"].record()) == {"seconds", "cpu_seconds", "wall_seconds", "rounds"}


def test_peak_memory_is_that_of_the_call_and_not_of_what_was_before() -> None:
    megabyte = 1 << 20
    before = np.ones(200 * megabyte, np.uint8)
    del before
    peak, how = peak_bytes_of(lambda: np.ones(64 * megabyte, np.uint8))
    if how == "VmHWM":
        assert 60 * megabyte < peak < 80 * megabyte
    else:
        assert peak >= 0


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    settings = {"scope": "S2", "V": 4_000, "M": 3, "N": 64, "D": 16, "seed": 1}
    settings |= {"side": "released", "device": "cpu", "shared": False}
    found = in_fresh_process("benchmarks.memory", settings, threads=1)
    # At least the members' logits, probabilities and log-probabilities.
    assert found["peak_bytes"] > 3 * 4_000 * 3 * 64 * 4
    with pytest.raises(ChildFailedError, match="No module named"):
        in_fresh_process("benchmarks.no_such_module", {}, threads=1)


def test_the_estimate_of_the_baselines_memory_is_near_what_was_measured() -> None:
    # VmHWM above the inputs: 1.31 GB at M = 4, 2.54 GB at M = 10; the estimate has inputs as well.
    for M, measured in ((4, 1.31e9), (10, 2.54e9)):
        estimate = estimated_bytes("S2", "released", 40_000, M, 256)
        assert measured < estimate < 1.5 * measured


# --- loss.py --------------------------------------------------------------------------------


def read_results(stem: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    record = json.loads(stem.with_name(stem.name + ".json").read_text("utf-8"))
    with open(stem.with_name(stem.name + ".csv"), encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert stem.with_name(stem.name + ".svg").read_text("utf-8").lstrip().startswith("<?xml")
    assert set(record) >= ENVIRONMENT
    assert record["hardware"]["processor"]
    assert record["versions"]["torch"] == torch.__version__
    return record, rows


def test_loss_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--no-memory", "--backends", "eager", "--output", str(tmp_path)]
    assert loss.main(arguments) == 0
    record, rows = read_results(tmp_path / "loss-quick")
    assert record["command"].endswith(" ".join(arguments))
    assert [(cell["scope"], cell["V"], cell["M"]) for cell in record["cells"]] == [
        ("S1", 5_000, 4),
        ("S2", 5_000, 4),
    ]
    for cell in record["cells"]:
        assert list(cell["sides"]) == side_names(cell["scope"], ["eager"])
        assert set(cell["teachers"]) >= {"total_uncertainty", "top1", "rmi"}
        for name, found in cell["sides"].items():
            assert len(found["rounds"]["cpu"]) == record["rounds"] == 2, name
            assert found["seconds"] == found["cpu_seconds"] > 0
        gaps = cell["sides"]["eager_float32"]["gradient_difference"]
        assert all(gap < 1e-4 for gap in gaps.values()), gaps
    assert len(rows) == sum(len(cell["sides"]) for cell in record["cells"])
    by_side = {(row["scope"], row["side"]): row for row in rows}
    assert float(by_side["S1", "released"]["times_faster_than_released"]) == 1.0
    out, err = capsys.readouterr()
    assert "S2  V = 5,000  M = 4" in out
    assert "round 2 of 2" in err

    with pytest.raises(SystemExit) as refused:
        loss.main(arguments)
    assert refused.value.code == 1
    assert "--overwrite" in capsys.readouterr().err


def test_what_does_not_fit_is_skipped_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loss, "available_bytes", lambda device: 20_000_000)
    monkeypatch.setattr(loss, "WIDTH", 32)
    skipped: list[dict[str, str]] = []
    plan = loss.Plan((loss.Size("S2", 2_000, 4, 64),), (), 1)
    (cell,) = loss.time_cells(plan, ["eager"], "cpu", 1, skipped)
    assert "released" not in cell["sides"]
    assert cell["compared_with"] == "eager_float32"
    (entry,) = skipped
    assert entry["side"] == "released"
    assert "are free" in entry["reason"]
    assert "skipped" in capsys.readouterr().err


def test_a_side_that_refuses_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(cell: Cell, name: str) -> Any:
        if "stored" in name:
            raise InputError("not here")
        return side(cell, name)

    monkeypatch.setattr(loss, "side", refusing)
    skipped: list[dict[str, str]] = []
    plan = loss.Plan((loss.Size("S1", 200, 1, 32),), (), 1)  # one member is enough
    (cell,) = loss.time_cells(plan, ["eager"], "cpu", 1, skipped)
    assert list(cell["sides"]) == ["released", "cross_entropy_float32", "eager_float32"]
    assert [(entry["side"], entry["reason"]) for entry in skipped] == [
        ("eager_stored_float32", "not here")
    ]


def test_plans_hold_the_cells_that_were_promised() -> None:
    headline = loss.make_plan("headline", ["eager", "cpp"], None)
    assert {(s.scope, s.M) for s in headline.timed} == {
        ("S1", 4), ("S1", 10), ("S2", 4), ("S2", 10),
    }  # fmt: skip
    assert {(s.V, s.N) for s in headline.timed} == {(40_000, 256)}
    assert headline.rounds >= 5
    largest = loss.Size("S2", 40_000, 10, 1024)
    assert set(dict(headline.memory)[largest]) >= {"released", "cpp_float32"}
    full = loss.make_plan("full", ["cpp"], 7)
    assert {(s.V, s.M) for s in full.timed} == {
        (V, M) for V in (5_000, 40_000, 256_000) for M in (1, 4, 10, 20)
    }
    assert full.rounds == 7
    assert loss.shares_projection(loss.Size("S2", 256_000, 20, 64))
    assert not loss.shares_projection(loss.Size("S2", 40_000, 20, 64))


def timed(**seconds: float) -> dict[str, Any]:
    return {name: {"seconds": value} for name, value in seconds.items()}


def test_aims_are_judged_in_both_directions() -> None:
    sides = timed(
        released=10.0, cross_entropy_float32=1.0, eager_float32=3.0, cpp_float32=1.5,
        cpp_bfloat16=1.25, cpp_held_bfloat16=1.0, cpp_stored_float32=1.2,
    )  # fmt: skip
    cells = [{"scope": "S2", "V": 40_000, "M": 4, "N": 256, "sides": sides}]
    peak = {"scope": "S2", "V": 40_000}
    memory = [
        peak | {"M": 4, "N": 256, "side": "cpp_float32", "peak_bytes": 100},
        peak | {"M": 10, "N": 1024, "side": "cpp_float32", "peak_bytes": 130},
        peak | {"M": 10, "N": 1024, "side": "released", "peak_bytes": 13_000},
    ]
    found = loss_report.aims({"device": "cpu", "cells": cells, "memory": memory})
    judged = {aim["what"].split(": ", 1)[1]: aim["reached"] for aim in found}
    assert judged == {
        "cpp_float32, times faster than (a)": True,  # 6.7 ≥ 5.5
        "cpp_bfloat16, times faster than (a)": False,  # 8 < 10
        "cpp_held_bfloat16, times faster than (a)": True,  # 10 ≥ 10
        "student side (cpp_stored_float32), times the time of (b)": True,  # 1.2 ≤ 1.25
        "cpp_float32, times less memory than (a)": True,  # 100 ≥ 40
        "memory at M=10 N=1024, times that at M=4 N=256": False,  # 1.3 > 1.1
    }


@pytest.mark.parametrize("module", [loss, step, stability])
def test_help_ends_in_an_example(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    name = module.__name__.rpartition(".")[2]
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.strip().startswith(f"python -m benchmarks.{name}")


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (loss, ["--rounds", "0"], "at least 1 round"),
        (loss, ["--backends", "fast"], "--backends fast"),
        (loss, ["--threads", "0"], "at least 1 thread"),
        (step, ["--tokens", "33"], "multiple of 32"),
        (stability, ["--vocabulary", "3"], "at least 8"),
        (stability, ["--lowest", "5", "--highest", "1"], "--lowest"),
    ],
)
def test_wrong_settings_are_refused(
    module: Any, arguments: list[str], message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as refused:
        module.main([*arguments, "--output", str(tmp_path)])
    assert refused.value.code == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_aligned() -> None:
    assert text_table(("side", "ms"), [("a", "1"), ("long", "20")]).splitlines() == [
        "side  ms", "--------", "a      1", "long  20",
    ]  # fmt: skip


# --- stability.py ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("z", [-3.0, 6.0])
def test_the_exact_gradient_is_the_references(place: str, z: float) -> None:
    row = runaway_row(40, z, place)
    assert row.V == 40
    probs = row.spread(row.probs)
    assert float(probs.sum()) == 1.0
    inverse_precision = 2 * row.rmi / (row.V - 1)
    _, expected = exact_losses.proxy_dirichlet(
        row.spread(row.logits), probs, inverse_precision, normalisation="total"
    )
    assert row.spread(exact_gradient(row)).tolist() == pytest.approx(
        [float(g) for g in expected], rel=1e-13, abs=1e-16
    )


def test_stability_writes_curves_of_all_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stability, "usable_backends", lambda device: (["eager"], {"cpp": "test"}))
    settings = ["--vocabulary", "1000", "--step", "34"]
    assert stability.main([*settings, "--output", str(tmp_path)]) == 0
    record, rows = read_results(tmp_path / "stability")
    methods = {curve["method"] for curve in record["curves"]}
    assert methods >= {"ours, eager, float32", "released, float64", "naive, float32"}
    points = list(range(-50, 121, 34))
    assert len(rows) == 2 * len(methods) * len(points)
    for curve in record["curves"]:
        assert curve["z"] == points
        errors = dict(zip(points, curve["error"], strict=True))
        if curve["method"].startswith("ours"):
            assert max(curve["error"]) < 1e-5, curve
        elif curve["method"] == "naive, float32":
            assert errors[120] is None or errors[120] > 0.5
        assert curve["error"][0] < 1e-4, curve
    assert "off by 1 % from z" in capsys.readouterr().out


def test_ours_has_the_research_codes_settings() -> None:
    assert (LOSS.kind, LOSS.concentration) == ("proxy_dirichlet", "mkl")
    assert (LOSS.normalisation, LOSS.offset, LOSS.mix_weight) == ("total", 1, 0)


# --- step.py --------------------------------------------------------------------------------


def test_step_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--backend", "eager", "--output", str(tmp_path)]
    assert step.main(arguments) == 0
    record, rows = read_results(tmp_path / "step-quick")
    (cell,) = record["cells"]
    assert cell["M"] == 2
    assert cell["teachers"] == "own weights"
    assert list(cell["sides"]) == [row["side"] for row in rows]
    for name, found in cell["sides"].items():
        parts = set(found["parts"])
        assert {"student forward", "loss", "backward", "optimiser"} <= parts
        assert ("teachers" in parts) == name.startswith(("released", "online"))
        assert ("reading" in parts) == name.startswith("stored")
        assert sum(found["parts"].values()) > 0
    assert "training step  V = 1,000  M = 2" in capsys.readouterr().out


def test_every_step_trains_the_student(tmp_path: Path) -> None:
    from benchmarks.models import Architecture, random_batch, random_dictionary, random_model

    dictionary = random_dictionary(200)
    sizes = Architecture(1, 16, 32, 2, dropout=0.0)
    student = random_model(sizes, dictionary, 8, seed=1)
    teachers = [random_model(sizes, dictionary, 8, seed).eval() for seed in (2, 3)]
    weight = student.decoder.output_projection.weight
    training = step.Training(
        student=student.train(),
        optimizer=torch.optim.SGD(student.parameters(), lr=1.0),
        teachers=teachers,
        batch=random_batch(dictionary, 2, 4, seed=1),
        store=random_store(tmp_path / "store", V=200, M=2, T=4, sentences=8),
        backend="eager",
        clock=step.Clock(),
        draw_sentences=random.Random(1),
    )
    initial = weight.detach().clone()
    updates = {}
    for name, one_step in step.steps(training).items():
        with torch.no_grad():
            weight.copy_(initial)
        one_step()
        updates[name] = weight.detach() - initial
        assert weight.grad is None
        assert float(updates[name].norm()) > 0, name
        with torch.no_grad():
            weight.copy_(initial)
    # SGD's update is the gradient, the tied embedding's included; only this weight is put back.
    assert set(updates) >= {"released", "online_float32", "stored_float32", "cross_entropy"}


def test_step_aims() -> None:
    def cell(M: int, stored: float) -> dict[str, Any]:
        side = {"seconds": stored, "parts": {"reading": 0.01 * stored}}
        return {"M": M, "sides": {"released": {"seconds": 10.0}, "stored_float32": side}}

    record = {"V": 40_000, "cells": [cell(4, 1.9), cell(10, 1.9)]}
    assert [aim["reached"] for aim in step_report.aims(record)] == [True, True, False, True]
    assert step_report.aims({"V": 1_000, "cells": record["cells"]}) == []
