"""``python -m benchmarks.methods``: train, decode and assess every method, and compare them."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.methods.archive import Archive, RunResults
from benchmarks.methods.method import FILE, Bench, Run, choose_runs, read_bench, runs_named
from benchmarks.methods.page import fill_page, markdown_page, markdown_tables
from benchmarks.methods.paired import difference_rows
from benchmarks.methods.plot import figure
from benchmarks.methods.runs import PlannedRun, join_plans, plan_run, settings_of, write_runs
from benchmarks.methods.table import Row, aggregate, collect, seeds_found, write_rows
from recipes.common.progress import Display, duration
from recipes.common.recipe import REPOSITORY, Recipe, load, require_data_root
from recipes.common.run import current_commit, interrupt, print_plan, work_root
from recipes.common.runner import Runner, StepError, only_one_run
from recipes.common.work import WorkFolder
from seqdistill.errors import InputError
from seqdistill.files import atomic_write

ENDINGS = (".csv", ".json", ".md", ".svg")

_EPILOG = """\
examples:
  python -m benchmarks.methods
  python -m benchmarks.methods --methods proxy,end2 --seeds 1 --updates 100 --dry-run
  python -m benchmarks.methods --table-only --output benchmarks/results --overwrite \\
      --page docs/methods.md
  python -m benchmarks.methods --file benchmarks/methods/digits.yaml
  python -m benchmarks.methods --archive benchmarks/results/methods --methods mine
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; returns the exit status: 0, 1 failed, 2 wrong usage, 130 stopped."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    display = Display()
    try:
        return _run(given, display)
    except (InputError, StepError) as error:
        display.line(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        display.line("stopped; the same command goes on from here")
        return 130


def _run(given: argparse.Namespace, display: Display) -> int:
    started = time.monotonic()
    bench = read_bench(given.file)
    changes = {"recipe": given.recipe, "updates": given.updates}
    bench = replace(bench, **{key: value for key, value in changes.items() if value is not None})
    changed = [*([] if given.recipe else bench.settings), *given.set]
    recipe = load(REPOSITORY / bench.recipe, changed, given.data_root)
    page = None if given.page is None else given.page.resolve()
    output = None if given.output is None else given.output.resolve()
    work = WorkFolder(work_root(given.work_dir or default_work_dir(recipe)))
    os.chdir(REPOSITORY)  # every path of the plan starts there
    stem = (output or work.root) / given.file.stem
    existing = [path for end in ENDINGS if (path := stem.with_suffix(end)).exists()]
    if output is not None and existing and not given.overwrite:
        raise InputError(f"{existing[0]} exists already; pass --overwrite or another --output")
    runs = choose_runs(bench, given.methods, given.seeds)
    archive = None if given.archive is None else Archive(given.archive.resolve())
    planned = [plan_run(bench, run, recipe, work) for run in runs]
    settings = {one.run.name: settings_of(one, bench, work) for one in planned}
    kept = set[str]()
    if archive is not None:
        others = archived_runs(archive, bench, set(runs), recipe, work)
        settings |= {one.run.name: settings_of(one, bench, work) for one in others}
        kept = archive.fitting(settings)
        for name in (one.run.name for one in planned):
            if archive.has(name) and name not in kept:
                display.line(f"{name}: the archive has it as it was made before; it is made again")
    left = [one for one in planned if one.run.name not in kept]
    plan = join_plans(left)
    failures: list[StepError] = []
    if given.dry_run:
        runner = Runner(plan, work.root)
        print_plan(plan, runner.stamps)
        return 0
    if not given.table_only:
        require_data_root(recipe)
        with only_one_run(work.root):
            write_runs(left, bench, work)
            runner = Runner(
                plan,
                work.root,
                jobs=recipe.jobs,
                threads=recipe.threads,
                display=display,
                commit=current_commit(),
                numbered_logs=False,
                warm=False,  # costs are those of programs that are started as users start them
            )
            in_archive = f", {len(planned) - len(left)} of them in the archive" if kept else ""
            display.line(f"{len(runs)} runs{in_archive}, {len(plan)} steps in {work.root}")
            ran = runner.run(plan, keep_going=True)
            failures = runner.failures
        display.line(f"{ran} of {len(plan)} steps run; {duration(time.monotonic() - started)}")
    found = collect(bench, work, archive, settings)
    if archive is not None:
        for name, results in found.items():
            if name not in kept and results.content["settings"] == settings.get(name):
                archive.add(name, results)
    rows = write_comparison(bench, recipe, found, stem)
    if page is not None:
        filled = fill_page(page.read_text(encoding="utf-8"), markdown_tables(rows), stem.name)
        with atomic_write(page) as handle:
            handle.write(filled)
    display.line(f"comparison: {stem.resolve()}.md, .csv, .json, .svg")
    for failure in failures:
        display.line(f"failed: {failure.step.name}")
    return 1 if failures else 0


def archived_runs(
    archive: Archive, bench: Bench, besides: Container[Run], recipe: Recipe, work: WorkFolder
) -> list[PlannedRun]:
    """Return the bench's runs that an archive has, beside those that are known already.

    A run that this recipe has no data for is left away.
    """
    planned = []
    for run in runs_named(bench, archive.names()):
        if run in besides:
            continue
        with suppress(InputError):
            planned.append(plan_run(bench, run, recipe, work))
    return planned


def write_comparison(
    bench: Bench,
    recipe: Recipe,
    found: Mapping[str, RunResults],
    stem: Path,
) -> list[Row]:
    """Write table and plot of what is there, print the summary to stdout; returns the rows."""
    seeds = seeds_found(bench, found)
    rows = aggregate(bench, found, seeds) + difference_rows(bench, found, seeds)
    facts = provenance(bench, recipe, found, stem.name)
    page = markdown_page(f"Methods on {recipe.title}, {bench.updates} updates", rows, facts)
    print(page.split("\n## ")[0].rstrip())
    record = {
        "schema": "seqdistill.methods/1",
        "facts": facts,
        "methods": {name: asdict(method) for name, method in bench.methods.items()},
        "runs": {
            name: {"metrics": one.content["metrics"], "facts": one.facts}
            for name, one in found.items()
        },
        "rows": [asdict(row) for row in rows],
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_rows(stem.with_suffix(".csv"), rows)
    texts = {".md": page, ".json": json.dumps(record, indent=1, ensure_ascii=False) + "\n"}
    for ending, text in texts.items():
        with atomic_write(stem.with_suffix(ending)) as handle:
            handle.write(text)
    drawing = figure(rows, bench.baselines)
    if drawing is not None:
        with atomic_write(stem.with_suffix(".svg"), binary=True) as handle:
            drawing.savefig(handle, format="svg", metadata={"Date": None, "Creator": None})
    return rows


def provenance(
    bench: Bench, recipe: Recipe, found: Mapping[str, RunResults], name: str
) -> dict[str, str]:
    """Return what has to be known to redo the comparison: name → text.

    Args:
        bench: the methods.
        recipe: what they are compared on.
        found: results by the run's name.
        name: of the bench's file.
    """
    facts = [one.facts for one in found.values()]
    commits = {commit for one in facts for commit in one["commits"]}
    signatures = {one["signature"] for one in facts if one["signature"]}
    resumed = [step for one in facts for step in one["resumed"]]
    scale = "" if recipe.scale == "full" else f" --set scale={recipe.scale}"
    file = "" if name == FILE.stem else f" --file benchmarks/methods/{name}.yaml"
    return {
        "command": f"`python -m benchmarks.methods{file} --recipe {bench.recipe}{scale} "
        f"--updates {bench.updates}`",
        "recipe": f"{recipe.title}; every student has {bench.updates} updates, times its patience, "
        f"and the recipe's options but for its own (`{name}.json`); {recipe.jobs} steps at once, "
        f"{recipe.threads} thread(s) each",
        "commit": ", ".join(sorted(commits)),
        "hardware": "; ".join(sorted({one["machine"] for one in facts})),
        "versions": "; ".join(sorted({one["versions"] for one in facts})),
        "quality": "; ".join(f"`{one}`" for one in sorted(signatures)),
        "interrupted and resumed (CPU time of a killed part may be missing)": ", ".join(resumed),
    }


def default_work_dir(recipe: Recipe) -> Path:
    """Return ``runs/methods-tatoeba_en_de``, or another folder for a scale."""
    scale = "" if recipe.scale == "full" else f"-{recipe.scale}"
    return REPOSITORY / "runs" / f"methods-{recipe.name}{scale}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _seeds(text: str) -> list[int]:
    return [int(seed) for seed in _names(text)]


def _updates(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 update, got {text}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description="Train, decode and assess every method of a file from the same teachers, data "
        "and stored targets. What is done is skipped; what was interrupted goes on; a failure "
        "ends its own run alone.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--methods", type=_names, metavar="A,B", help="some (default: all)")
    parser.add_argument(
        "--seeds",
        type=_seeds,
        metavar="1,2",
        help="of every method (default: the file's for main methods, its first for others)",
    )
    parser.add_argument(
        "--updates", type=_updates, metavar="N", help="of every student (default: the file's)"
    )
    parser.add_argument(
        "--file", type=Path, default=FILE, help="the methods (default: %(default)s)"
    )
    parser.add_argument("--recipe", metavar="FOLDER", help="another recipe than the file's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe"
    )
    parser.add_argument(
        "--data-root",
        metavar="FOLDER",
        help="real data (default: $SEQDISTILL_DATA_ROOT, else ../shared/data beside the checkout)",
    )
    parser.add_argument("--work-dir", help="where everything goes (default: runs/methods-RECIPE)")
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="DIR",
        help="results that were made before, here or elsewhere: their runs are not made again but "
        "stand in the table; new ones are added",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument(
        "--table-only", action="store_true", help="run nothing, compare what is there"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="of the comparison (default: the work folder)"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="put the tables into this page's places for them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
