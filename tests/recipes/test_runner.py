"""The runner: skips what is done, resumes what was interrupted, says what failed."""

import hashlib
import io
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

import pytest

from recipes.common.progress import Display, decoding_progress, duration, training_progress
from recipes.common.runner import Runner, StepError, only_one_run
from recipes.common.steps import Hashes, Step
from seqdistill.errors import InputError


class Bench:
    """A work folder with a plan of small steps, and what the runner said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plan: list[Step] = []
        self.said = io.StringIO()

    def python(
        self,
        name: str,
        code: str,
        reads: str = "",
        writes: str = "",
        *,
        stage: int = 1,
        folder: Path | None = None,
        resumes: bool = False,
    ) -> Step:
        """Add a step that runs Python code with ``root`` set."""
        code = f"import pathlib, sys; root = pathlib.Path({str(self.root)!r}); {code}"
        step = Step(
            name,
            stage,
            (sys.executable, "-c", code),
            tuple(self.root / part for part in reads.split()),
            tuple(self.root / part for part in writes.split()),
            folder,
            resumes=resumes,
        )
        self.plan.append(step)
        return step

    def run(self, *, force: bool = False, jobs: int = 1) -> int:
        """Run the whole plan with a new runner."""
        self.said = io.StringIO()
        runner = Runner(self.plan, self.root, jobs=jobs, display=Display(self.said))
        return runner.run(self.plan, force=force)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def two_steps(bench: Bench) -> None:
    bench.python("make", "(root / 'a').write_text('1')", writes="a")
    bench.python("copy", "(root / 'b').write_text((root / 'a').read_text())", "a", "b")


def test_what_is_done_is_skipped_and_said_to_be(bench: Bench) -> None:
    two_steps(bench)
    assert bench.run() == 2
    assert "+ 1 data · copy: " in bench.said.getvalue()
    assert bench.run() == 0
    assert bench.said.getvalue().count("done before, skipped") == 2
    assert bench.run(force=True) == 2


def test_a_changed_command_runs_again_with_all_that_reads_it(bench: Bench) -> None:
    two_steps(bench)
    bench.run()
    copy = bench.plan[1]
    bench.plan.clear()
    bench.python("make", "(root / 'a').write_text('2')", writes="a")
    bench.plan.append(copy)
    assert bench.run() == 2
    assert (bench.root / "b").read_text() == "2"


def test_the_same_output_again_leaves_the_rest_alone(bench: Bench) -> None:
    two_steps(bench)
    bench.run()
    copy = bench.plan[1]
    bench.plan.clear()
    bench.python("make", "(root / 'a').write_text('1'); pass", writes="a")
    bench.plan.append(copy)
    assert bench.run() == 1


def test_a_changed_or_missing_file_runs_again(bench: Bench) -> None:
    two_steps(bench)
    bench.run()
    (bench.root / "a").write_text("22")
    assert bench.run() == 1  # make is content with the file that is there, copy is not
    (bench.root / "b").unlink()
    assert bench.run() == 1


def test_a_failure_shows_the_end_of_its_log_and_where_it_is(bench: Bench) -> None:
    bench.python("bad", "print(*range(100), sep='\\n'); sys.exit('the reason')", writes="a")
    with pytest.raises(StepError) as failure:
        bench.run()
    message = str(failure.value)
    assert message.startswith("bad failed with exit status 1")
    assert "the reason" in message
    assert "| 99" in message
    assert "| 70" not in message
    log = bench.root / "logs" / "01-bad.log"
    assert f"whole log: {log}" in message
    assert log.read_text().startswith("$ ")


def test_a_step_that_writes_nothing_failed(bench: Bench) -> None:
    bench.python("lazy", "pass", writes="a")
    with pytest.raises(StepError, match="ended well but did not write"):
        bench.run()
    with pytest.raises(StepError, match="did not write"):  # and is not taken for done
        bench.run()


def test_a_program_that_is_not_there_is_named(bench: Bench) -> None:
    bench.plan.append(Step("gone", 1, ("no-such-program",), (), ()))
    with pytest.raises(StepError, match="gone: cannot run no-such-program"):
        bench.run()


def test_a_missing_input_names_the_stage_that_makes_it(bench: Bench) -> None:
    bench.python("make", "(root / 'a').write_text('1')", writes="a")
    late = bench.python("late", "pass", reads="a", stage=4)
    runner = Runner(bench.plan, bench.root, display=Display(bench.said))
    with pytest.raises(InputError, match=r"stage 1 \(data\) writes; run it first: --stages 1-4"):
        runner.run([late])


INTERRUPTED = """
(root / 'work' / 'last').exists() or ((root / 'work' / 'last').write_text('half'), sys.exit(3))
(root / 'work' / 'best').write_text((root / 'work' / 'last').read_text() + ' and whole')
""".strip().replace("\n", "; ")


def test_an_interrupted_training_resumes(bench: Bench) -> None:
    work = bench.root / "work"
    bench.python("train", INTERRUPTED, writes="work/best", folder=work, resumes=True)
    with pytest.raises(StepError, match="exit status 3"):
        bench.run()
    assert bench.run() == 1
    assert "goes on where it was interrupted" in bench.said.getvalue()
    assert (work / "best").read_text() == "half and whole"


def test_another_command_does_not_resume_the_old_ones_work(bench: Bench) -> None:
    work = bench.root / "work"
    bench.python("train", INTERRUPTED, writes="work/best", folder=work, resumes=True)
    with pytest.raises(StepError):
        bench.run()
    bench.plan.clear()
    bench.python("train", INTERRUPTED + "; pass", writes="work/best", folder=work, resumes=True)
    with pytest.raises(StepError):  # it found nothing, and begins from the beginning
        bench.run()


def test_steps_run_side_by_side_only_where_they_may(bench: Bench) -> None:
    meet = (
        "import time; (root / '{me}').touch(); end = time.time() + 20\n"
        "while not (root / '{other}').exists():\n"
        "    time.sleep(0.02)\n"
        "    assert time.time() < end, 'the other step never came'"
    )
    code = "exec({!r})"
    bench.python("left", code.format(meet.format(me="a", other="b")), writes="a")
    bench.python("right", code.format(meet.format(me="b", other="a")), writes="b")
    bench.python("join", "(root / 'c').touch()", "a b", "c")
    assert bench.run(jobs=3) == 3
    assert bench.said.getvalue().strip().splitlines()[-1].startswith("+ 1 data · join")


def test_a_failure_stops_what_runs_beside_it(bench: Bench) -> None:
    bench.python("slow", "import time; time.sleep(60); (root / 'a').touch()", writes="a")
    bench.python("bad", "sys.exit(1)", writes="b")
    started = time.monotonic()
    with pytest.raises(StepError, match="bad failed"):
        bench.run(jobs=2)
    assert time.monotonic() - started < 30
    assert "! 1 data · slow: stopped; the next run takes it up again" in bench.said.getvalue()
    assert not (bench.root / "a").exists()


def test_hashes_of_large_files_are_remembered(tmp_path: Path) -> None:
    notes, small, large = (tmp_path / name for name in ("hashes.json", "small", "large"))
    small.write_bytes(b"x" * 9)
    large.write_bytes(b"x" * 10)
    sha256 = hashlib.sha256(b"x" * 10).hexdigest()
    hashes = Hashes(notes, large=10)
    assert hashes.of(small) == hashlib.sha256(b"x" * 9).hexdigest()
    assert not notes.exists()
    assert hashes.of(large) == sha256
    # What is remembered is what is answered, by the next run, too ...
    known = json.loads(notes.read_text())
    known[str(large)]["sha256"] = "remembered"
    notes.write_text(json.dumps(known))
    assert Hashes(notes, large=10).of(large) == "remembered"
    # ... until the file's time or size is another, or the notes are damaged.
    os.utime(large, ns=(1, 1))
    assert Hashes(notes, large=10).of(large) == sha256
    large.write_bytes(b"y" * 11)
    assert Hashes(notes, large=10).of(large) == hashlib.sha256(b"y" * 11).hexdigest()
    notes.write_text("{")
    assert Hashes(notes, large=10).of(large) == hashlib.sha256(b"y" * 11).hexdigest()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    refused: list[bool] = []

    def second() -> None:
        with pytest.raises(InputError, match="another run is at work"), only_one_run(tmp_path):
            pass
        refused.append(True)

    with only_one_run(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused
    with only_one_run(tmp_path):  # free again
        pass


def test_progress_of_trainings_is_read_from_json_lines() -> None:
    log = (
        'x | INFO | train_inner | {"epoch": 1, "update": 0.5, "num_updates": "40"}\n'
        'x | INFO | valid | {"epoch": 1, "valid_loss": "3", "valid_num_updates": "41"}\n'
        'x | INFO | train_inner | {"epoch": 1, "upd'
    )
    assert training_progress(100)(log) == "41/100 updates"
    assert training_progress(None)(log) == "41 updates"
    assert training_progress(100)("nothing yet") is None


def test_progress_of_decoding_counts_lines(tmp_path: Path) -> None:
    read = decoding_progress(tmp_path / "out.jsonl")
    assert read("") is None
    (tmp_path / "out.jsonl.part").write_text("{}\n{}\n")
    assert read("") == "2 sentences"


def test_durations() -> None:
    assert [duration(s) for s in (0.2, 59.6, 3599, 3600)] == [
        "0 s", "1:00 min", "59:59 min", "1:00:00 h",
    ]  # fmt: skip


def test_the_status_line_is_for_terminals_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        display = Display(stream)
        display.status(["teacher 1 20/500 updates, 3 s"])
        display.line("done")
    assert "20/500" in terminal.getvalue()
    assert plain.getvalue() == "done\n"


BURN = "import time\nwhile time.process_time() < {seconds}: pass\nblock = bytearray({mib} << 20)"


def test_a_step_says_what_it_used_with_its_children(bench: Bench) -> None:
    child = BURN.format(seconds=0.4, mib=150)
    code = f"import subprocess; subprocess.run([sys.executable, '-c', {child!r}], check=True); "
    step = bench.python("burn", code + "(root / 'a').touch()", writes="a")
    bench.run()
    stamp = json.loads((bench.root / "stamps" / "burn.json").read_text())
    assert 0.4 <= stamp["cpu_seconds"] < 10
    # The kernel counts what this process held when it started the step as the step's, too.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 150 << 20 <= stamp["peak_bytes"] < max(1 << 30, 2 * own)
    assert stamp["name"] == step.name


def test_an_interrupted_steps_parts_are_added_up(bench: Bench) -> None:
    work = bench.root / "work"
    code = f"exec({BURN.format(seconds=0.3, mib=1)!r}); {INTERRUPTED}"
    bench.python("train", code, writes="work/best", folder=work, resumes=True)
    with pytest.raises(StepError):
        bench.run()
    stamp = bench.root / "stamps" / "train.json"
    first = json.loads(stamp.read_text())
    assert first["cpu_seconds"] >= 0.3
    bench.run()
    both = json.loads(stamp.read_text())
    assert both["cpu_seconds"] >= first["cpu_seconds"] + 0.3
    with pytest.raises(StepError):
        bench.run(force=True)  # begun anew, not gone on with
    assert json.loads(stamp.read_text())["cpu_seconds"] < both["cpu_seconds"]


def test_a_failure_ends_only_what_reads_it_where_the_others_go_on(bench: Bench) -> None:
    bench.python("bad", "sys.exit('the reason')", writes="a")
    bench.python("reader", "pass", "a", "b")
    bench.python("reader of it", "pass", "b", "c")
    bench.python("other", "(root / 'd').touch()", writes="d")
    runner = Runner(bench.plan, bench.root, display=Display(bench.said), numbered_logs=False)
    assert runner.run(bench.plan, keep_going=True) == 2
    assert [failure.step.name for failure in runner.failures] == ["bad"]
    assert "the reason" in bench.said.getvalue()
    assert "! left out, since bad failed: reader, reader of it\n" in bench.said.getvalue()
    assert (bench.root / "d").exists()
    assert (bench.root / "logs" / "bad.log").exists()
