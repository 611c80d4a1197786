"""The bench of methods at its smallest, whole, through the real command lines."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.methods.method import read_bench
from benchmarks.methods.page import markdown_tables
from benchmarks.methods.table import read_rows
from recipes.common.recipe import REPOSITORY

pytestmark = pytest.mark.slow

METHODS = """
recipe: recipes/demo
seeds: [1, 2]
updates: 4
baselines: [ensemble]
against: proxy
detection: [total_uncertainty, reverse_mutual_information]
rejection: [negative_log_probability, total_uncertainty]
transfer:
  drawn: {generate: {count: 60}, arguments: {targets: ensemble, beam: 2}}
methods:
  proxy:
    label: Proxy-Dirichlet
    source: a paper
    main: true
    before:
      - name: note
        command: |
          {python} -c 'import pathlib; pathlib.Path("{folder}/note").write_text("{updates}")'
        outputs: [note]
        shared: true
    arguments: {criterion: proxy_dirichlet}
    stages:
      - {share: 0.5, targets: online, arguments: {criterion: mean_kl, train-only: encoder.*}}
      - {share: 0.5, transfer: drawn}
  broken:
    label: broken
    source: a control that is trained and cannot be decoded
    targets: none
    arguments: {criterion: label_smoothed_cross_entropy, label-smoothing: 0.1}
    after:
      - name: fail
        command: |
          {python} -c 'import pathlib; raise SystemExit(str(pathlib.Path("{student}").is_file()))'
        outputs: [nothing]
  left:
    label: never run
    source: missing
"""


def run_bench(
    folder: Path, *more: str, work: str = "work", methods: str = "proxy,broken"
) -> subprocess.CompletedProcess[str]:
    (folder / "methods.yaml").write_text(METHODS, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.methods", "--file", str(folder / "methods.yaml")]
    command += ["--work-dir", str(folder / work), "--set", "scale=tiny"]
    command += ["--set", "data.ood.unseen_words=null", "--seeds", "1"]
    return subprocess.run(
        [*command, "--methods", methods, *more],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder of a finished bench, and what it printed to stdout and stderr."""
    pytest.importorskip("fairseq", reason="needs the extra seqdistill[fairseq]")
    folder = tmp_path_factory.mktemp("bench")
    done = run_bench(folder, "--archive", str(folder / "archive"))
    assert done.returncode == 1, done.stderr  # one method fails
    return folder, done.stdout, done.stderr


def test_a_method_that_fails_ends_its_own_run_alone(whole: tuple[Path, str, str]) -> None:
    folder, _, said = whole
    assert "  | True" in said
    assert "failed: fail broken-seed1" in said
    assert "left out, since fail broken-seed1 failed: decode broken-seed1 on test" in said
    assert not (folder / "work" / "runs" / "broken-seed1" / "results.json").exists()


def test_runs_have_numbers_and_costs(whole: tuple[Path, str, str]) -> None:
    folder, _, _ = whole
    work = folder / "work"
    assert (work / "runs" / "proxy" / "note").read_text() == "4"
    for run in ("ensemble", "proxy-seed1"):
        results = json.loads((work / "runs" / run / "results.json").read_text(encoding="utf-8"))
        metrics = results["metrics"]
        assert 0 < metrics["nll"]["low"] <= metrics["nll"]["value"] <= metrics["nll"]["high"]
        assert metrics["bleu"]["low"] <= metrics["bleu"]["high"]
        mean = metrics["auroc:total_uncertainty:mean"]
        assert mean["value"] == pytest.approx(metrics["auroc:total_uncertainty:permuted"]["value"])
        assert "auroc:reverse_mutual_information:mean" in metrics
        # Starting Python and torch alone takes a second and 100 MiB.
        assert metrics["decode_cpu_ms"]["value"] > 1000 / 60
        assert metrics["decode_peak_gib"]["value"] > 0.1
        assert ("kl" in metrics) == (run != "ensemble")
        recorded = results["recipe"]["systems"][run]["fidelity"]
        for measure in ("total_uncertainty", "reverse_mutual_information"):
            expected = None if recorded is None else recorded["spearman"][measure]
            assert metrics.get(f"rho:{measure}", {"value": None})["value"] == expected
        if run != "ensemble":
            assert metrics["train_cpu_minutes"]["value"] > 1 / 60
            assert metrics["train_peak_gib"]["value"] > 0.1
        assert ("store_cpu_minutes" in metrics) == (run == "proxy-seed1")
    stamps = work / "stamps"
    training = json.loads((stamps / "distil-proxy-seed1.json").read_text(encoding="utf-8"))
    first = json.loads((stamps / "distil-proxy-seed1-part-1.json").read_text(encoding="utf-8"))
    proxy = json.loads((work / "runs/proxy-seed1/results.json").read_text(encoding="utf-8"))
    note = json.loads((stamps / "note-proxy.json").read_text(encoding="utf-8"))
    assert proxy["metrics"]["train_cpu_minutes"]["value"] == pytest.approx(
        (first["cpu_seconds"] + training["cpu_seconds"] + note["cpu_seconds"]) / 60
    )
    for part in (first, training):
        assert "--max-update 2" in " ".join(part["command"])
    assert "--ensemble-paths" in first["command"]
    part = work / "students" / "proxy-seed1.part1" / "checkpoint_best.pt"
    assert part.is_file()
    assert training["command"][training["command"].index("--student-init") + 1] == str(part)
    words = " ".join(training["command"])
    assert f"seqdistill-fairseq-train {work}/transfer/drawn/data " in words
    assert f"--target-store {work}/transfer/drawn:{work}/targets/valid " in words
    assert "--train-subset drawn " in words
    control = json.loads((stamps / "distil-broken-seed1.json").read_text(encoding="utf-8"))
    assert "--target-store" not in control["command"]
    assert "--ensemble-paths" not in control["command"]


def test_a_set_to_learn_from_is_drawn_and_annotated(whole: tuple[Path, str, str]) -> None:
    """A language model of the training set draws it, once; the ensemble translates it."""
    work = whole[0] / "work"
    drawn = json.loads((work / "generated" / "drawn" / "manifest.json").read_text())
    assert drawn["sentences"] == 60
    assert drawn["drawn"] == 60 + sum(drawn["left_out"].values())
    lines = (work / "generated" / "drawn" / "sentences.txt").read_text(encoding="utf-8")
    known = (work / "data" / "pieces" / "train.src").read_text(encoding="utf-8").splitlines()
    assert len(set(lines.splitlines()) - set(known)) == 60
    store = json.loads((work / "transfer" / "drawn" / "manifest.json").read_text())
    assert store["sentences"] == 60
    model = json.loads((work / "stamps" / "language-model.json").read_text())
    assert "--task language_modeling" in " ".join(model["command"])


def test_the_comparison_marks_what_is_missing(whole: tuple[Path, str, str]) -> None:
    folder, printed, _ = whole
    work = folder / "work"
    rows = read_rows(work / "methods.csv")
    count = {row.method: (row.value, row.expected) for row in rows if row.metric == "runs"}
    assert count == {
        "ensemble": (1, 1),
        "proxy": (1, 2),
        "broken": (0, 1),
        "left": (0, 1),
    }
    table = {
        cells[0]: cells[1:]
        for line in printed.partition("\n## ")[0].splitlines()
        if line.startswith("| ")
        for cells in [[cell.strip() for cell in line.strip("| ").split(" | ")]]
    }
    assert table["Proxy-Dirichlet"][0] == "1 of 2"
    assert table["never run"][0] == "0 of 1"
    assert set(table["never run"][1:]) == {"–"}
    assert "ensemble of 2" in table
    values = {(row.method, row.metric): row for row in rows}
    for metric in ("bleu", "nll", "auroc:total_uncertainty:mean", "prr:negative_log_probability"):
        is_there = ("ensemble", metric) in values and ("proxy", metric) in values
        assert (("ensemble", f"minus:{metric}") in values) == is_there, metric
        if not is_there:  # no PRR where all translations are as bad
            assert metric.startswith("prr")
            continue
        gap = values["ensemble", f"minus:{metric}"]
        expected = values["ensemble", metric].value - values["proxy", metric].value
        assert gap.value == pytest.approx(expected, abs=1e-9), metric
        assert gap.bootstrap_low is not None
        assert gap.bootstrap_high is not None
        assert gap.bootstrap_low <= gap.bootstrap_high
    assert ("proxy", "minus:nll") not in values
    page = (work / "methods.md").read_text(encoding="utf-8")
    for text in markdown_tables(rows).values():  # the page says what the CSV says
        assert text in page
    assert (work / "methods.svg").read_text(encoding="utf-8").startswith("<?xml")
    record = json.loads((work / "methods.json").read_text(encoding="utf-8"))
    assert set(record["runs"]) == {"ensemble", "proxy-seed1"}
    with open(work / "methods.csv", encoding="utf-8") as handle:
        assert len(list(csv.DictReader(handle))) == len(record["rows"])


def test_what_is_in_an_archive_is_not_made_again(whole: tuple[Path, str, str]) -> None:
    """The table of an empty work folder is that of the whole one, and nothing is to be run."""
    folder, printed, _ = whole
    names = {path.name for path in (folder / "archive").iterdir()}
    assert names == {
        f"{run}.{end}" for run in ("ensemble", "proxy-seed1") for end in ("json", "npz")
    }
    options = ("--archive", str(folder / "archive"))
    other = run_bench(folder, *options, work="other", methods="proxy")
    assert other.returncode == 0, other.stderr
    assert "2 runs, 2 of them in the archive, 0 steps" in other.stderr
    assert other.stdout == printed
    assert (folder / "other" / "methods.csv").read_bytes() == (
        folder / "work" / "methods.csv"
    ).read_bytes()
    # A method that the archive has not: what it needs, and its own steps.
    more = run_bench(folder, *options, "--dry-run", work="other", methods="broken")
    named = {line.split(": ")[1] for line in more.stdout.splitlines() if line.startswith("# ")}
    assert "distil broken-seed1 (waits for its input)" in named
    assert any(name.startswith("force ensemble") for name in named)
    assert not any("proxy-seed1" in name or name.startswith("decode ens") for name in named)


def test_a_second_run_does_only_what_failed(whole: tuple[Path, str, str]) -> None:
    folder, printed, _ = whole
    dry = run_bench(folder, "--dry-run")
    states = [line for line in dry.stdout.splitlines() if line.startswith("# ")]
    assert {line.split(": ")[1] for line in states if not line.endswith("(done)")} == {
        "fail broken-seed1 (to do)",
        *(f"decode broken-seed1 on {name} (waits for its input)" for name in ("test", "permuted")),
        *(f"force broken-seed1{more} (waits for its input)" for more in ("", " on valid")),
        "assess broken-seed1 (waits for its input)",
    }
    table = run_bench(folder, "--table-only", "--output", str(folder / "published"))
    assert table.returncode == 0, table.stderr
    assert table.stdout == printed
    names = {path.name for path in (folder / "published").iterdir()}
    assert names == {f"methods{ending}" for ending in (".csv", ".json", ".md", ".svg")}
    again = run_bench(folder, "--table-only", "--output", str(folder / "published"))
    assert again.returncode == 1
    assert "pass --overwrite" in again.stderr
    other = run_bench(folder, "--table-only", "--updates", "5")
    assert "| 0 of 2" in other.stdout  # runs of another budget are not this bench's
    assert read_bench(folder / "methods.yaml").updates == 4
