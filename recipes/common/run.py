"""``python -m recipes.common.run recipes/demo``: run a recipe, or the part of it that is left."""

import argparse
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from recipes.common.plan import make_plan
from recipes.common.progress import Display, duration
from recipes.common.recipe import REPOSITORY, Recipe, load, require_data_root
from recipes.common.runner import Runner, StepError, only_one_run
from recipes.common.steps import STAGES, Stamps, Step, missing_inputs
from recipes.common.work import WorkFolder
from seqdistill.errors import InputError, UsageError
from seqdistill.files import atomic_write

_EPILOG = """\
stages: 1 data, 2 teachers, 3 targets, 4 distil, 5 decode, 6 uncertainty, 7 assess, 8 report

examples:
  python -m recipes.common.run recipes/demo
  python -m recipes.common.run recipes/demo --set scale=tiny
  python -m recipes.common.run recipes/tatoeba_en_de --stages 4-8 --set students.arguments.lr=1e-3
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a recipe; returns the exit status: 0, 1 for a failure, 2 for wrong usage, 130 stopped."""
    parser = _parser()
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    display = Display()
    started = time.monotonic()
    try:
        status = _run(given, display, started)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader (head, say) has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        parser.error(str(error))
    except (InputError, StepError) as error:
        display.line(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        display.line("stopped; the same command goes on from here")
        return 130


def _run(given: argparse.Namespace, display: Display, started: float) -> int:
    stages = parse_stages(given.stages)
    recipe = load(given.recipe, given.set, given.data_root)
    work = WorkFolder(work_root(given.work_dir or default_work_dir(recipe)))
    os.chdir(REPOSITORY)  # every path of the plan starts there
    plan = make_plan(recipe, work)
    chosen = [step for step in plan if step.stage in stages]
    if given.dry_run:
        print_plan(chosen, Stamps(work.root / "stamps"))
        return 0
    require_data_root(recipe)
    with only_one_run(work.root):
        with atomic_write(work.recipe) as handle:
            json.dump(dataclasses.asdict(recipe), handle, indent=2, ensure_ascii=False)
        runner = Runner(
            plan,
            work.root,
            jobs=recipe.jobs,
            threads=recipe.threads,
            display=display,
            commit=current_commit(),
        )
        display.line(f"{recipe.title} in {work.root}")
        for name, reason in recipe.left_out.items():
            display.line(f"! the set {name} is left out: {reason}")
        ran = runner.run(chosen, force=given.force)
    done = f"{ran} of {len(chosen)} steps run, {len(chosen) - ran} done before"
    display.line(f"{done}; {duration(time.monotonic() - started)}")
    if stages & {7, 8}:
        _show_results(recipe, work, with_report=8 in stages)
    return 0


def default_work_dir(recipe: Recipe) -> Path:
    """Return ``runs/demo``, or ``runs/demo-tiny`` for a scale, so that sizes never mix."""
    scale = "" if recipe.scale == "full" else f"-{recipe.scale}"
    return REPOSITORY / "runs" / f"{recipe.name}{scale}"


def parse_stages(text: str) -> set[int]:
    """Read ``3``, ``3-5`` or ``1,4-6``.

    Raises:
        UsageError: that is no choice of stages.

    Example:
        >>> sorted(parse_stages("1,4-6"))
        [1, 4, 5, 6]
    """
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            numbers = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            numbers = range(0)
        if not numbers or not set(numbers) <= STAGES.keys():
            raise UsageError(f"--stages expects 3, 3-5 or 1,4-6 with stages 1 to 8, got {text!r}")
        chosen |= set(numbers)
    return chosen


def print_plan(steps: Sequence[Step], stamps: Stamps) -> None:
    """Print the commands of steps to stdout, ready to be pasted, each with its state."""
    for step in steps:
        if stamps.is_done(step):
            state = "done"
        else:
            state = "waits for its input" if missing_inputs(step) else "to do"
        print(f"# {step.stage} {STAGES[step.stage]}: {step.name} ({state})")
        print(shlex.join(step.command))


def current_commit() -> str | None:
    """Return the checkout's commit, with ``-dirty`` where tracked files differ; None without git.

    Example:
        >>> commit = current_commit()
        >>> commit is None or len(commit) >= 7
        True
    """
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip() or None


def work_root(path: Path | str) -> Path:
    """Return the work folder as commands name it: relative to the checkout where it lies in it."""
    root = Path(path).resolve()
    return root.relative_to(REPOSITORY) if root.is_relative_to(REPOSITORY) else root


def _show_results(recipe: Recipe, work: WorkFolder, *, with_report: bool) -> None:
    """Print the comparison to stdout, and where everything is."""
    table = work.table.read_text(encoding="utf-8")
    print(table.split("\n## ", maxsplit=1)[0].rstrip())
    print(f"\nall numbers: {work.results.resolve()}")
    if with_report:
        print(f"report:      {work.report.resolve()}")


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Treat a signal as Ctrl-C."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.common.run",
        description="Run a recipe. What is done is skipped; what was interrupted goes on.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="FOLDER", help="a folder with a recipe.yaml")
    parser.add_argument("--work-dir", help="where everything goes (default: runs/RECIPE[-SCALE])")
    parser.add_argument("--stages", default="1-8", help="which: 3, 3-5 or 1,4-6 (default: 1-8)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe, again and again: students.arguments.lr=1e-3; scale=NAME first "
        "lays one of the recipe's scales over it",
    )
    parser.add_argument(
        "--data-root",
        metavar="FOLDER",
        help="real data (default: $SEQDISTILL_DATA_ROOT, else ../shared/data beside the checkout)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--force", action="store_true", help="run also steps that are done")
    return parser


if __name__ == "__main__":
    sys.exit(main())
