"""Checkpoints of the engine, in real trainings of one and two processes: resumed, killed, bad.

All trainings of this file run in one process that forks their ranks (``scale_jobs``); what they
did is looked at afterwards.
"""

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.integrations.deepspeed.pointers import Shards, read_pointer
from seqdistill.integrations.deepspeed.weights import consolidate
from tests.plugins.corpus import ARCHITECTURE, PROGRAMS, USER_DIR, Corpus, run
from tests.plugins.half import HALF, needs_half
from tests.plugins.scale_jobs import run_jobs

pytest.importorskip("deepspeed")

#: Other stages to go on with, by one process instead of two; the last is refused.
STAGES = ((1, 3), (3, 2), (0, 1))
#: Where a process is killed in its second save: at the first of these events after the first save.
MOMENTS = {
    "before the shards": "os.mkdir /deepspeed/update6",
    "when the shards are written": "open /deepspeed/zero_to_torch.py",
    "before the pointer has its name": "os.rename /checkpoint_1_6.pt.PID.part",
    "in the copy": "open /checkpoint_last.pt.part",
    "before old names go": "os.remove /checkpoint_1_3.pt",
    "before old shards go": "shutil.rmtree /deepspeed/update3",
}

Job = dict[str, Any]


class Runs:
    """Jobs by name: what they are, and what they did."""

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        self.corpus = corpus
        self.folder = folder
        self.jobs: dict[str, Job] = {}
        self.results: dict[str, dict[str, Any]] = {}
        for stage in range(4):
            zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
            (folder / f"zero{stage}.json").write_text(json.dumps({"zero_optimization": zero}))

    def add(
        self, name: str, stage: int | None, ranks: int, *options: object, to: str = "", **more: Any
    ) -> None:
        """Add a training of 10 updates of 4 sentences; 8 are an epoch."""
        arguments = [self.corpus.data, "--user-dir", USER_DIR, "--task", "translation"]
        arguments += [*ARCHITECTURE, "--share-all-embeddings"]
        arguments += ["--criterion", "label_smoothed_cross_entropy", "--clip-norm", "1.0"]
        arguments += ["--optimizer", "adam", "--lr", "0.01", "--warmup-updates", "4"]
        arguments += ["--lr-scheduler", "inverse_sqrt", "--seed", "5", "--batch-size", "2", "--cpu"]
        arguments += ["--log-format", "json", "--log-interval", "1", "--no-progress-bar"]
        arguments += ["--num-workers", "0"]
        arguments += ["--save-dir", self.path(to or name), "--update-freq", 2 // ranks]
        if "--max-update" not in options:
            arguments += ["--max-update", 10]
        if stage is not None:
            arguments += ["--deepspeed", self.folder / f"zero{stage}.json"]
        self.jobs[name] = {
            "arguments": [str(a) for a in (*arguments, *options)], "ranks": ranks, **more
        }  # fmt: skip

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def run(self) -> None:
        """Run what has not run."""
        names = [name for name in self.jobs if name not in self.results]
        done = run_jobs(self.path(f"jobs{len(self.results)}"), [self.jobs[name] for name in names])
        self.results |= dict(zip(names, done, strict=True))

    def curve(self, name: str, start: int = 1) -> list[float]:
        """The losses from an update on, as fairseq logs them (three decimals)."""
        result = self.results[name]
        assert set(result["codes"]) == {0}, result["ranks"][0]["output"][-3000:]
        records = result["ranks"][0]["values"]["train_inner"]
        return [float(r["loss"]) for r in records if int(r["num_updates"]) >= start]

    def error(self, name: str) -> str:
        """The error that rank 0 ended with; the others too."""
        result = self.results[name]
        assert set(result["codes"]) == {3}, result["ranks"][0]["output"][-3000:]
        errors = {rank["error"] for rank in result["ranks"]}
        assert len(errors) == 1
        return errors.pop()


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    found = Runs(corpus, tmp_path_factory.mktemp("scale"))
    by_updates = ("--save-interval-updates", 5, "--no-epoch-checkpoints")
    found.add("stock", None, 1, "--no-epoch-checkpoints")
    for stage in range(4):
        found.add(f"whole{stage}", stage, 2, *by_updates)
        middle = found.path(f"whole{stage}", "checkpoint_1_5.pt")
        resume = ("--restore-file", middle, "--no-save")
        found.add(f"same{stage}", stage, 2, *resume)
        found.add(f"two-one{stage}", stage, 1, *resume)
        found.add(f"single{stage}", stage, 1, *by_updates)
        middle = found.path(f"single{stage}", "checkpoint_1_5.pt")
        found.add(f"one-two{stage}", stage, 2, "--restore-file", middle, "--no-save")
    for before, after in STAGES:
        middle = found.path(f"whole{before}", "checkpoint_1_5.pt")
        found.add(f"stage{before}-{after}", after, 1, "--restore-file", middle, "--no-save")
    middle = found.path("noise", "checkpoint_1_5.pt")
    found.add("noise", 2, 1, *by_updates, "--dropout", 0.3)
    found.add("noise again", 2, 1, "--dropout", 0.3, "--restore-file", middle, "--no-save")
    half = ("--fp16", "--fp16-init-scale", 16, "--fp16-scale-window", 2)
    found.add("half", 2, 2, *by_updates, *half)
    if HALF:
        middle = found.path("half", "checkpoint_1_5.pt")
        found.add("half again", 3, 1, *half, "--restore-file", middle, "--no-save")
        # As many ranks: where an overflow is met differs with their number.
        half = ("--fp16", "--fp16-init-scale", 2**17, "--fp16-scale-window", 2)
        found.add("overflow", 2, 2, *by_updates, *half)
        middle = found.path("overflow", "checkpoint_1_5.pt")
        found.add("overflow again", 2, 2, *half, "--restore-file", middle, "--no-save")
    ours = ("--task", "ensemble_teacher_translation", "--max-update", 14)
    for name, of_stage in (("later", None), ("later on the engine", 2)):
        found.add(
            name, of_stage, 1, "--save-interval-updates", 10, "--no-epoch-checkpoints", *ours
        )  # fmt: skip
        middle = found.path(name, "checkpoint_2_10.pt")
        found.add(f"{name} again", of_stage, 1, "--restore-file", middle, "--no-save", *ours)
    found.run()
    return found


# --- going on -------------------------------------------------------------------------------


def test_every_stage_trains_as_stock_fairseq_does(runs: Runs) -> None:
    expected = runs.curve("stock")
    assert len(expected) == 10
    for stage in range(4):
        assert runs.curve(f"whole{stage}") == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("stage", range(4))
def test_resume_with_as_many_ranks_and_with_others(runs: Runs, stage: int) -> None:
    expected = runs.curve(f"whole{stage}", start=6)
    assert runs.curve(f"same{stage}") == expected
    assert runs.curve(f"two-one{stage}") == pytest.approx(expected, abs=1.5e-3)
    assert runs.curve(f"one-two{stage}") == pytest.approx(expected, abs=1.5e-3)


def test_resume_takes_up_rates_meters_and_random_numbers(runs: Runs) -> None:
    assert runs.curve("noise again") == runs.curve("noise", start=6)
    assert runs.curve("noise") != runs.curve("single3")
    for ours, whole in (("same3", "whole3"), ("two-one1", "whole1")):
        again, before = (runs.results[name]["ranks"][0]["values"] for name in (ours, whole))
        for key in ("lr", "gnorm", "epoch"):
            expected = [float(r[key]) for r in before["train_inner"][5:]]
            assert [float(r[key]) for r in again["train_inner"]] == pytest.approx(
                expected, abs=2e-3
            )
        # The epoch's mean loss counts the updates before the checkpoint, too.
        assert [float(r["train_loss"]) for r in again["train"]] == pytest.approx(
            [float(r["train_loss"]) for r in before["train"]], abs=2e-3
        )
        assert again["valid"][-1]["valid_best_loss"] == before["valid"][-1]["valid_best_loss"]


def test_other_stages_go_on_through_the_universal_checkpoint(runs: Runs) -> None:
    for before, after in STAGES[:2]:
        expected = runs.curve(f"whole{before}", start=6)
        assert runs.curve(f"stage{before}-{after}") == pytest.approx(expected, abs=1.5e-3)
    # Made by the first that wanted it, out of the way, and used by the second.
    folder = runs.path("whole3", "deepspeed", "universal")
    assert [path.name for path in folder.glob("update*")] == ["update5"]
    made = (folder / "update5" / "zero" / "optimizer_state.pt").stat().st_mtime
    log = runs.path("jobs0", f"{[*runs.jobs].index('stage3-2')}.0.log")
    assert made < log.stat().st_mtime


@pytest.mark.skipif(HALF, reason="this processor has float16 products")
def test_fp16_is_refused_where_there_is_none(runs: Runs) -> None:
    assert "--fp16: DeepSpeed finds no float16 products on this device" in runs.error("half")


@needs_half
def test_the_loss_scale_of_fp16_goes_on(runs: Runs) -> None:
    assert runs.curve("half again") == pytest.approx(runs.curve("half", start=6), abs=2e-2)
    before, again = (
        [float(r["loss_scale"]) for r in runs.results[name]["ranks"][0]["values"]["train_inner"]]
        for name in ("half", "half again")
    )
    assert again == before[-len(again) :]
    assert len({*before}) > 2, "it moved"


@needs_half
def test_overflows_of_fp16_before_and_after_a_checkpoint(runs: Runs) -> None:
    assert runs.curve("overflow again") == runs.curve("overflow", start=6)
    before, again = (
        [float(r["loss_scale"]) for r in runs.results[name]["ranks"][0]["values"]["train_inner"]]
        for name in ("overflow", "overflow again")
    )
    assert again == before[-len(again) :]
    assert before[0] < 2**17, "an overflow before the checkpoint"
    assert any(b < a for a, b in itertools.pairwise(again)), "and one after it"


@pytest.mark.parametrize("name", ["later", "later on the engine"])
def test_resume_after_the_first_epoch(runs: Runs, name: str) -> None:
    """fairseq's own tasks group other sentences into batches when they go on in a later epoch."""
    assert runs.curve(f"{name} again") == runs.curve(name, start=11)
    assert len(runs.curve(f"{name} again")) == 4


def test_zero_0_is_not_converted(runs: Runs) -> None:
    assert "are of ZeRO 0 in float32, the configuration says ZeRO 1" in runs.error("stage0-1")
    assert "--reset-optimizer" in runs.error("stage0-1")


# --- files ----------------------------------------------------------------------------------


def test_names_are_fairseqs_and_pointers_are_small_and_safe(runs: Runs) -> None:
    folder = runs.path("whole2")
    names = {path.name for path in folder.glob("*.pt")}
    assert names == {
        "checkpoint_1_5.pt", "checkpoint_2_10.pt", "checkpoint_best.pt", "checkpoint_last.pt"
    }  # fmt: skip
    shards = {path.name for path in (folder / "deepspeed").glob("update*")}
    assert shards == {"update5", "update10"}, "the epoch's checkpoint has no name any more"
    found = read_pointer(folder / "checkpoint_last.pt")
    assert found is not None
    state, record = found
    assert (record.stage, record.ranks, record.updates) == (2, 2, 10)
    assert record.check(folder / "checkpoint_last.pt") == (folder / record.folder).resolve()
    assert "model" not in state
    assert state["optimizer_history"][-1]["num_updates"] == 10
    assert (folder / "checkpoint_last.pt").stat().st_size < 60_000


def test_consolidated_weights_are_those_of_stock_fairseq(runs: Runs) -> None:
    stock = torch.load(runs.path("stock", "checkpoint_last.pt"), weights_only=False)["model"]
    for stage in range(4):
        state = consolidate(runs.path(f"whole{stage}", "checkpoint_last.pt"))
        model = state["model"]
        assert list(model) == list(stock) or set(model) == set(stock)
        for name, weight in stock.items():
            torch.testing.assert_close(model[name], weight, rtol=0, atol=1e-3, msg=name)
        tied = (model[f"{side}.embed_tokens.weight"] for side in ("encoder", "decoder"))
        assert len({weight.data_ptr() for weight in tied}) == 1
    half = consolidate(runs.path("whole3", "checkpoint_last.pt"), torch.float16)["model"]
    assert {weight.dtype for weight in half.values()} == {torch.float16}


def test_consolidated_checkpoints_translate_alike(runs: Runs, tmp_path: Path) -> None:
    for stage in (1, 3):
        pointer = runs.path(f"whole{stage}", "checkpoint_last.pt")
        output = tmp_path / f"student{stage}.pt"
        done = run("seqdistill", "consolidate", pointer, "--output", output)
        assert done.returncode == 0, done.stderr
        # DeepSpeed's own words are not data.
        assert done.stdout == ""
    stock = runs.path("stock", "checkpoint_last.pt")
    ensemble = f"{tmp_path / 'student1.pt'}:{tmp_path / 'student3.pt'}"
    outputs = []
    for path in (stock, tmp_path / "student3.pt", ensemble):
        result = run(
            "seqdistill-fairseq-generate", runs.corpus.data, "--task", "translation", "--path",
            path, "--cpu", "--beam", 3,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        lines = [line.split("\t") for line in result.stdout.splitlines() if line[:2] == "H-"]
        outputs.append({name: text for name, _, text in lines})
    assert len(outputs[0]) == 8
    assert outputs[0] == outputs[1] == outputs[2]


def test_programs_that_want_weights_name_consolidate(runs: Runs, tmp_path: Path) -> None:
    from fairseq_plugins.checkpoints import load_checkpoint
    from recipes.common.average import average

    pointer = runs.path("whole1", "checkpoint_last.pt")
    for reader in (load_checkpoint, lambda path: average([path])):
        with pytest.raises(InputError, match=f"seqdistill consolidate {pointer}"):
            reader(pointer)
    result = run("seqdistill-fairseq-generate", runs.corpus.data, "--path", pointer, "--cpu")
    assert result.returncode == 1
    assert "seqdistill consolidate FILE" in result.stderr.splitlines()[-1]


def test_consolidate_refuses_what_is_no_pointer(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = runs.path("stock", "checkpoint_last.pt")
    output = tmp_path / "new.pt"
    assert main(["consolidate", str(stock), "--output", str(output)]) == 1
    assert "ordinary checkpoint" in capsys.readouterr().err
    cut = tmp_path / "cut.pt"
    cut.write_bytes(runs.path("whole1", "checkpoint_last.pt").read_bytes()[:5000])
    assert main(["consolidate", str(cut), "--output", str(output)]) == 1
    assert "truncated or damaged" in capsys.readouterr().err
    assert main(["consolidate", str(tmp_path / "none.pt"), "--output", str(output)]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
    assert not output.exists()


# --- bad input ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(runs: Runs) -> Runs:
    whole = str(runs.path("whole2"))

    def add(
        name: str, *options: object, stage: int = 2, ranks: int = 1, damage: Any = (), **more: Any
    ) -> None:
        folder = str(runs.path(name))
        damage = [[f"{folder}/deepspeed/update10/{file}", size] for file, size in damage]
        runs.add(name, stage, ranks, "--max-update", 12, *options, copy=[whole, folder],
                 damage=damage, **more)  # fmt: skip

    add("missing", ranks=2, damage=[["zero_pp_rank_1_mp_rank_00_optim_states.pt", 0]])
    add("cut", damage=[["mp_rank_00_model_states.pt", 1000]])
    add("larger", "--encoder-ffn-embed-dim", 64)
    add("other optimizer", "--optimizer", "sgd")
    add("other criterion", "--criterion", "cross_entropy")
    add("weights only", "--reset-optimizer", "--optimizer", "sgd", "--reset-dataloader",
        "--reset-meters", "--reset-lr-scheduler", "--max-update", 1, stage=3)  # fmt: skip
    stock = runs.path("stock", "checkpoint_last.pt")
    runs.add("warm", 3, 1, "--restore-file", stock, "--max-update", 1, "--no-save")
    runs.add("ordinary", 2, 1, copy=[str(runs.path("stock")), str(runs.path("ordinary"))])
    runs.run()
    return runs


def test_bad_shards_are_named(bad: Runs) -> None:
    assert "zero_pp_rank_1_mp_rank_00_optim_states.pt is missing" in bad.error("missing")
    assert "mp_rank_00_model_states.pt has 1000 bytes instead of" in bad.error("cut")


def test_another_training_is_refused(bad: Runs) -> None:
    error = bad.error("larger")
    assert "another model than the options describe" in error
    assert "encoder.layers.0.fc1.bias is 32 in it, 64 in the model" in error
    assert "trained with the optimizer Adam, now SGD" in bad.error("other optimizer")
    assert "LabelSmoothedCrossEntropyCriterion, now CrossEntropyCriterion" in bad.error(
        "other criterion"
    )


def test_weights_alone_are_a_start(bad: Runs) -> None:
    """From shards with --reset-optimizer, and from an ordinary checkpoint: the loss goes on low."""
    first = bad.curve("whole2")[0]
    for name in ("weights only", "warm"):
        assert bad.curve(name)[0] < first - 0.5
    lines = bad.results["warm"]["ranks"][0]["lines"]
    assert any("training starts at update 0 from its weights" in line for line in lines)


def test_an_ordinary_last_checkpoint_is_not_replaced(bad: Runs) -> None:
    assert "choose another --save-dir" in bad.error("ordinary")


def test_a_pointer_without_its_folder(runs: Runs, tmp_path: Path) -> None:
    alone = tmp_path / "checkpoint_last.pt"
    alone.write_bytes(runs.path("whole1", "checkpoint_last.pt").read_bytes())
    found = read_pointer(alone)
    assert found is not None
    with pytest.raises(InputError, match="which does not exist"):
        found[1].check(alone)


# --- kill -9 --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(corpus, tmp_path_factory.mktemp("killed"))
    options = ("--save-interval-updates", 3, "--keep-interval-updates", 1, "--disable-validation")
    options = (*options, "--no-epoch-checkpoints")
    runs.add("unhurt", 2, 1, *options)
    runs.run()
    (pid,) = {
        event.split(".")[2] for event in runs.results["unhurt"]["ranks"][0]["events"]
        if event.startswith("open /checkpoint_1_6.pt.")
    }  # fmt: skip
    events = [e.replace(pid, "PID") for e in runs.results["unhurt"]["ranks"][0]["events"]]
    start = events.index("os.rename /checkpoint_last.pt.part") + 1
    for moment, event in MOMENTS.items():
        number = events.index(event, start)
        runs.add(moment, 2, 1, *options, kill={"rank": 0, "event": number})
        runs.add(f"after {moment}", 2, 1, *options, to=moment)
    # Rank 1, in its shards of the second save.
    runs.add("rank 1", 2, 2, *options, kill={"rank": 1, "event": 3})
    runs.run()
    return runs


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_at_any_moment_leaves_a_checkpoint(killed: Runs, moment: str) -> None:
    assert killed.results[moment]["codes"] == [-9]
    again = killed.curve(f"after {moment}")
    # At most the updates since the last save: 3 were saved before the one that was hit.
    assert len(again) in (4, 7)
    assert again == killed.curve("unhurt")[-len(again) :]
    folder = killed.path(moment)
    assert not [*folder.glob("*.part"), *folder.glob("deepspeed/**/*.part")]
    named = {_record(path).folder.split("/")[1] for path in folder.glob("*.pt")}
    assert {path.name for path in (folder / "deepspeed").glob("update*")} == named


def _record(path: Path) -> Shards:
    found = read_pointer(path)
    assert found is not None
    return found[1]


def test_the_others_name_the_rank_that_has_gone(killed: Runs) -> None:
    result = killed.results["rank 1"]
    assert result["codes"][1] == -9
    assert result["codes"][0] == 1, "it ends too, and before its time limit (124)"
    said = [line for line in result["ranks"][0]["lines"] if "has ended before its time" in line]
    assert len(said) == 1
    assert said[0].startswith("rank 1 (process ")
    last = killed.path("rank 1", "checkpoint_last.pt")
    assert f"{last} is whole (update 3): the same command goes on from there" in said[0]


def test_torchrun_ends_when_a_rank_is_killed(corpus: Corpus, tmp_path: Path) -> None:
    runs = Runs(corpus, tmp_path)
    often = ("--save-interval-updates", 5, "--no-epoch-checkpoints")
    runs.add("job", 2, 2, *often, "--max-update", 5000)
    arguments = runs.jobs["job"]["arguments"]
    last = tmp_path / "job" / "checkpoint_last.pt"
    with open(tmp_path / "output", "w+") as output:
        job = subprocess.Popen(
            [PROGRAMS / "torchrun", "--standalone", "--nproc_per_node", "2", "--no-python",
             PROGRAMS / "seqdistill-fairseq-train", *arguments],
            stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            end = time.monotonic() + 240
            while not last.exists() and job.poll() is None:
                assert time.monotonic() < end
                time.sleep(0.1)
            os.kill(_rank_1_of(job.pid), signal.SIGKILL)
            assert job.wait(timeout=60) != 0
        finally:
            job.kill()
        output.seek(0)
        text = output.read()
    assert "rank 1 (process " in text, text[-3000:]
    assert f"{last} is whole (update " in text


def _rank_1_of(launcher: int) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            is_rank_1 = b"\0RANK=1\0" in (folder / "environ").read_bytes()
        except OSError:  # another's, or gone
            continue
        if parent == launcher and is_rank_1:
            return int(folder.name)
    raise AssertionError("no rank 1")
