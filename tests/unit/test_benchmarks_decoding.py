"""The decoding benchmark runs, and its sides do the same search. Nothing is timed."""

import csv
import json
from pathlib import Path

import pytest
import torch

from benchmarks import decoding
from benchmarks.decoding_sides import MEANINGS, Decoding
from benchmarks.timing import in_fresh_process
from seqdistill.teachers import ensemble_statistics

TINY = {
    "architecture": {"layers": 1, "width": 16, "ffn": 32, "heads": 2},
    "V": 60,
    "B": 2,
    "beam": 3,
    "length": 5,
    "seed": 1,
}


@pytest.mark.parametrize("M", [0, 2])
def test_all_sides_find_the_same(M: int) -> None:
    sides = Decoding.make({**TINY, "M": M}).sides()
    assert list(sides) == list(MEANINGS)
    plain, measured = sides["plain"](), sides["measures"]()
    again, _ = sides["second_pass"]()
    for sentences in zip(plain, measured, again, strict=True):
        assert [len(hypotheses) for hypotheses in sentences] == [3, 3, 3]
        for ours, theirs, third in zip(*sentences, strict=True):
            assert len(ours["tokens"]) == 5
            assert torch.equal(ours["tokens"], theirs["tokens"])
            assert torch.equal(ours["tokens"], third["tokens"])
            torch.testing.assert_close(ours["score"], theirs["score"])
            # Of an ensemble also what EP needs, of a student nothing of the research code's.
            assert ("epkl_ep" in theirs["uncertainty"]) == (M > 0)
            assert "official_epkl" not in theirs["uncertainty"]


def test_the_second_pass_measures_what_the_search_did() -> None:
    decoding = Decoding.make({**TINY, "M": 3})
    measured = [h for sentence in decoding.sides()["measures"]() for h in sentence]
    _, again = decoding.sides()["second_pass"]()
    for name, full in (("tu", "total_uncertainty"), ("rmi", "reverse_mutual_information")):
        during = torch.stack([h["token_uncertainty"][full] for h in measured])
        torch.testing.assert_close(during, again[name], rtol=1e-3, atol=1e-5)


def test_the_stacked_measures_are_the_ensembles() -> None:
    from benchmarks.decoding_sides import _stacked_measures

    logits = torch.randn(2, 3, 4, 9, generator=torch.Generator().manual_seed(2))
    found = _stacked_measures(logits)
    exact = ensemble_statistics(torch.log_softmax(logits.double(), -1).permute(2, 0, 1, 3))
    for short, name in (("tu", "total_uncertainty"), ("mi", "mutual_information"), ("epkl",) * 2):
        torch.testing.assert_close(
            found[short].double(), getattr(exact, name), rtol=1e-4, atol=1e-5
        )


def test_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--no-memory", "--rounds", "1", "--output", str(tmp_path)]
    assert decoding.main(arguments) == 0
    record = json.loads((tmp_path / "decoding-quick.json").read_text(encoding="utf-8"))
    assert [(cell["V"], cell["M"]) for cell in record["cells"]] == [(200, 0), (200, 5)]
    assert [aim["at_most"] for aim in record["aims"]] == [1.10, 1.15]
    with (tmp_path / "decoding-quick.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["side"] for row in rows] == [*MEANINGS] * 2
    assert all(float(row["cpu_seconds"]) > 0 for row in rows)
    assert "<svg" in (tmp_path / "decoding-quick.svg").read_text(encoding="utf-8")
    assert "ensemble of 5" in capsys.readouterr().out


def test_memory_of_a_side() -> None:
    found = in_fresh_process(
        "benchmarks.decoding_memory", {**TINY, "V": 20_000, "M": 2, "side": "second_pass"}, 1
    )
    # Two members' distributions of 2 × 3 hypotheses of 5 tokens, and a few tensors beside them.
    assert found["peak_bytes"] > 2 * 30 * 20_000 * 4
    assert found["held_bytes"] > 50e6


def test_the_states_of_the_models_are_no_part_of_the_search() -> None:
    settings = {**TINY, "V": 20_000, "M": 2}
    states, ours = (
        in_fresh_process("benchmarks.decoding_memory", {**settings, "side": side}, 1)
        for side in ("states", "measures")
    )
    # The decoders' steps have nothing of the vocabulary's size.
    assert states["peak_bytes"] < 20_000 * 4 * 6 < ours["peak_bytes"] + 2_000_000


def test_memory_beside_models_and_states_is_what_must_not_grow() -> None:
    peaks = {(2, "states"): 100, (2, "measures"): 150, (5, "states"): 250, (5, "measures"): 310}
    memory = [
        {"V": 9, "M": M, "side": side, "peak_bytes": peak, "held_bytes": 7}
        for (M, side), peak in peaks.items()
    ]
    (aim,) = decoding.aims({"cells": [], "memory": memory})
    assert aim["value"] == pytest.approx(60 / 50)
    assert not aim["reached"]


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        decoding.main(["--quick", "--members", "1", "--output", str(tmp_path)])
    assert "at least 2 members" in capsys.readouterr().err
