"""16 bits, loss scaling, offload and gathers on DeepSpeed's engine, in two processes."""

import json
from pathlib import Path

import pytest

from tests.plugins.corpus import Corpus, logged
from tests.plugins.half import HALF, needs_half
from tests.plugins.scale_runs import run_together
from tests.plugins.test_scale_curves import (
    PROXY,
    configuration,
    curve,
    stage_configuration,
    training,
    translation,
)

UPDATES = ["--max-update", "8", "--disable-validation"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(scope="module")
def logs(corpus: Corpus, folder: Path) -> dict[str, str]:
    stages = {stage: ["--deepspeed", stage_configuration(folder, stage)] for stage in (1, 2, 3)}
    runs = {"float32": training(corpus, *PROXY, *stages[2])}
    for stage, deepspeed in stages.items():
        runs[f"bf16-{stage}"] = training(corpus, *PROXY, "--bf16", *deepspeed)
        if HALF:
            scaled = ["--fp16", "--fp16-scale-window", 3]
            runs[f"fp16-{stage}"] = training(corpus, *PROXY, *scaled, *deepspeed)
    if HALF:
        # float16 ends at 65,504: a gradient of 1 overflows from a scale of 2^16 on.
        high = ["--fp16", "--fp16-init-scale", 2**22, *stages[2]]
        runs["overflow"] = training(corpus, *PROXY, *high)
    accumulate = ["--update-freq", 2, "--clip-norm", 0.5]
    runs["accumulated"] = translation(corpus, *accumulate, *stages[2])
    for stage in (2, 3):
        zero = {"stage": stage, "offload_optimizer": {"device": "cpu"}}
        if stage == 3:
            zero["stage3_param_persistence_threshold"] = 0
        values: dict[str, object] = {"zero_optimization": zero}
        if stage == 3:
            # DeepSpeed's own for the CPU, which stage 2 takes by itself, wants a compiler.
            adam = {"torch_adam": True, "lr": "auto", "betas": "auto"}
            values["optimizer"] = {"type": "AdamW", "params": adam}
        offload = ["--deepspeed", configuration(folder, f"offload{stage}", values)]
        runs[f"offload-{stage}"] = translation(corpus, *accumulate, *offload)
    runs["gathers-tied"] = training(corpus, *PROXY, *stages[3])
    untied = [option for option in PROXY if option != "--share-all-embeddings"]
    runs["gathers-untied"] = training(corpus, *untied, *stages[3])
    runs = {name: [*arguments, *UPDATES] for name, arguments in runs.items()}
    return run_together(folder / "engine", runs, processes=2)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_stays_near_float32(logs: dict[str, str], stage: int) -> None:
    """8 bits of mantissa: 0.4 % a rounding; losses within 1 %, gradient norms within 3 %."""
    reference = curve(logs["float32"], "loss", "gnorm")
    got = curve(logs[f"bf16-{stage}"], "loss", "gnorm")
    assert len(got) == 8
    for (loss, norm), (exact, exact_norm) in zip(got, reference, strict=True):
        assert loss == pytest.approx(exact, rel=0.01)
        assert norm == pytest.approx(exact_norm, rel=0.03)
    assert got != reference


@needs_half
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_fp16_grows_its_scale_without_changing_an_update(logs: dict[str, str], stage: int) -> None:
    """The scale doubles within the 8 updates, and neither norms nor losses show it."""
    reference = curve(logs["float32"], "loss", "gnorm")
    got = curve(logs[f"fp16-{stage}"], "loss", "gnorm", "loss_scale")
    assert [scale for *_, scale in got] == [128, 128, 128, 256, 256, 256, 512, 512]
    for (loss, norm, _), (exact, exact_norm) in zip(got, reference, strict=True):
        assert loss == pytest.approx(exact, rel=0.005)
        assert norm == pytest.approx(exact_norm, rel=0.01)


@needs_half
def test_an_overflow_is_skipped_and_logged_as_fairseq_does(logs: dict[str, str]) -> None:
    log = logs["overflow"]
    told = "NOTE: gradient overflow detected, ignoring gradient, setting loss scale to: "
    scales = [float(line.rpartition(told)[2]) for line in log.splitlines() if told in line]
    assert scales[:2] == [2**21, 2**20]
    assert scales == sorted(scales, reverse=True)
    records = logged(log, "train_inner")
    # A skipped update is no update: all 8 were made, with the last scale.
    assert [record["num_updates"] for record in records] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert records[0]["loss_scale"] == scales[-1]
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.mark.parametrize("stage", [2, 3])
def test_offload_with_accumulation_and_clipping_changes_nothing(
    logs: dict[str, str], stage: int
) -> None:
    """DeepSpeed's Adam and torch's add epsilon at another place than fairseq's: 1e-3 relative."""
    reference = curve(logs["accumulated"], "loss", "gnorm", "clip")
    got = curve(logs[f"offload-{stage}"], "loss", "gnorm", "clip")
    assert {clip for *_, clip in reference} >= {100.0}
    for ours, exact in zip(got, reference, strict=True):
        assert ours == pytest.approx(exact, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_the_projection_is_gathered_once_an_update(
    logs: dict[str, str], folder: Path, kind: str
) -> None:
    """However many chunks the fused loss walks (3 tokens at a time here), tied or not.

    In the first update DeepSpeed does not know yet what comes next, and gathers for each use.
    """
    assert len(curve(logs[f"gathers-{kind}"], "loss")) == 8
    gathers = json.loads((folder / "engine" / f"gathers-{kind}.json").read_text())
    name = "encoder.embed_tokens" if kind == "tied" else "decoder.output_projection"
    before, first, *later = gathers[f"{name}.weight"]
    assert before == 0
    assert 1 <= first <= 6
    assert later == [1] * len(later)
    assert len(later) == 6
