"""Teachers spread over the processes of a training on DeepSpeed's engine, ZeRO 2 and 3."""

from pathlib import Path

import pytest

from tests.plugins.corpus import Corpus
from tests.plugins.scale_runs import run_together
from tests.plugins.test_scale_curves import (
    PROXY,
    TOLERANCE,
    UNEVEN,
    curve,
    stage_configuration,
    training,
)


def test_placements_under_the_engine_follow_one_curve(corpus: Corpus, tmp_path: Path) -> None:
    """20 updates, the last of each epoch with a filler in one process; and validations."""
    runs = {}
    for stage, placement in ((2, "replicate"), (2, "shard"), (3, "shard"), (3, "offload")):
        engine = ["--deepspeed", stage_configuration(tmp_path, stage)]
        options = [*PROXY, *UNEVEN, "--teacher-placement", placement, *engine]
        runs[f"{placement}{stage}"] = training(corpus, *options)
    logs = run_together(tmp_path, runs, processes=2)
    names = ("loss", "ensemble_epkl", "gnorm")
    expected = curve(logs["replicate2"], *names)
    assert len(expected) == 20
    assert "live here" in logs["shard2"]
    assert "live here" in logs["shard3"]
    for name in ("shard2", "shard3", "offload3"):
        for found, wanted in zip(curve(logs[name], *names), expected, strict=True):
            assert found == pytest.approx(wanted, rel=TOLERANCE, abs=2e-3), name
