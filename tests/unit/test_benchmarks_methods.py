"""The bench of methods: its file, its plan, and the arithmetic of its table."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.methods.archive import SCHEMA, Archive, RunResults
from benchmarks.methods.method import FILE, Bench, Run, choose_runs, fill, read_bench
from benchmarks.methods.page import fill_page, higher_is_better, markdown_page, markdown_tables
from benchmarks.methods.paired import difference_rows
from benchmarks.methods.runs import budget, join_plans, plan_run, settings_of
from benchmarks.methods.samples import (
    Sampled,
    bleu,
    mean_auroc,
    nll,
    word_error_rate,
    write_samples,
)
from benchmarks.methods.table import (
    Row,
    aggregate,
    collect,
    interval,
    read_rows,
    seeds_found,
    write_rows,
)
from recipes.common.recipe import REPOSITORY, Recipe, load
from recipes.common.work import WorkFolder
from seqdistill.assessment.detection import auroc
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, ModelInfo

WORK = WorkFolder(Path("work"))
HEAD = """
recipe: recipes/demo
seeds: [3, 4]
updates: 10
baselines: [ensemble]
detection: [total_uncertainty]
rejection: [total_uncertainty]
methods:
  one: {label: One, source: here, main: true, arguments: {criterion: mean_kl}}
"""


@pytest.fixture(scope="module")
def demo() -> Recipe:
    return load(REPOSITORY / "recipes" / "demo", ["scale=tiny"])


def bench_of(tmp_path: Path, more: str = "") -> Bench:
    path = tmp_path / "methods.yaml"
    path.write_text(HEAD + more, encoding="utf-8")
    return read_bench(path)


# --- the file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("  two: {label: a}", "methods.two.source is missing"),
        ("  two: {label: a, source: b, argments: {}}", "did you mean arguments"),
        ("  two: {label: a, source: b, targets: stor}", "unknown targets stor in methods.two"),
        ("  two: {label: a, source: b, student: oen}", "unknown method oen in methods.two.student"),
        (
            "  two: {label: a, source: b, student: one, arguments: {lr: 1}}",
            "methods.two.arguments is for a training, and two decodes the student of one",
        ),
        (
            "  two: {label: a, source: b, student: one, patience: 2}",
            "methods.two.patience is for a training, and two decodes the student of one",
        ),
        ("  two: {label: a, source: b, patience: 0}", "two.patience: expected more than 0, got 0"),
        ("  Two: {label: a, source: b}", "small letters, digits and underscores"),
        ("  ensemble: {label: a, source: b}", "a baseline has that name"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench_of(tmp_path, more)


def test_main_methods_have_every_seed_and_others_the_first(tmp_path: Path) -> None:
    bench = bench_of(
        tmp_path,
        "  two: {label: a, source: b}\n"
        "  three: {label: a, source: b, student: one, predictive: mean}\n",
    )
    names = [run.name for run in choose_runs(bench)]
    assert names == ["ensemble", "one-seed3", "two-seed3", "three-seed3", "one-seed4"]
    assert [run.name for run in choose_runs(bench, ["two"])] == ["ensemble", "two-seed3"]
    brought = [run.name for run in choose_runs(bench, ["three"], [7])]
    assert brought == ["ensemble", "one-seed7", "three-seed7"]
    with pytest.raises(InputError, match="unknown method tow in --methods; did you mean two"):
        choose_runs(bench, ["tow"])


def test_placeholders_that_mean_nothing() -> None:
    words = {"seed": "3", "folder": "/f"}
    assert fill({"a": ["{folder}/x", 1]}, words, "here") == {"a": ["/f/x", 1]}
    assert fill('{"json": {"a": 1}}', words, "here") == '{"json": {"a": 1}}'
    with pytest.raises(InputError, match=r"unknown placeholder \{sead\} in here; did you mean"):
        fill("{sead}", words, "here")


# --- the plan -------------------------------------------------------------------------------


def test_schedules_end_with_the_budget() -> None:
    given = {"lr": 1.0, "max-update": 2000, "total-num-update": 2000, "warmup-updates": 200}
    assert budget(given, 1000) == given | {"max-update": 1000, "total-num-update": 1000}
    assert budget(given, 100)["warmup-updates"] == 20
    assert "total-num-update" not in budget({"max-update": 5}, 10)


def test_patience_is_more_updates_for_schedules_and_stages_too(
    tmp_path: Path, demo: Recipe
) -> None:
    bench = bench_of(
        tmp_path,
        "  two: {label: a, source: b, patience: 2.5}\n"
        "  three: {label: a, source: b, patience: 3, stages: [{share: 0.2}, {share: 0.8}]}\n",
    )

    def updates(name: str) -> list[str]:
        steps = plan_run(bench, Run(name, 3), demo, WORK).steps
        commands = [step.command for step in steps if step.stage == 4]
        return [command[command.index("--max-update") + 1] for command in commands]

    assert (updates("one"), updates("two"), updates("three")) == (["10"], ["25"], ["6", "24"])


def test_runs_share_what_they_can(tmp_path: Path, demo: Recipe) -> None:
    bench = bench_of(
        tmp_path,
        "  two: {label: a, source: b, targets: online, init: random}\n"
        "  three: {label: a, source: b, student: one, decode: {beam: 7}}\n"
        "  four: {label: a, source: b, targets: none}\n",
    )
    runs = choose_runs(bench)
    planned = [plan_run(bench, run, demo, WORK) for run in runs]
    plan = join_plans(planned)
    names = [step.name for step in plan]
    assert len(set(names)) == len(names)
    for number, step in enumerate(plan):  # a step comes after those that it reads
        assert not any(step.needs(later) for later in plan[number:]), step.name
    trainings = {step.name: " ".join(step.command) for step in plan if step.stage == 4}
    assert list(trainings) == [f"distil {n}" for n in ("one-seed3", "two-seed3", "four-seed3")] + [
        "distil one-seed4"
    ]
    assert "--target-store" in trainings["distil one-seed3"]
    assert "--ensemble-paths" in trainings["distil two-seed3"]
    assert "--student-init" not in trainings["distil two-seed3"]
    for seed in (3, 4):
        words = trainings[f"distil one-seed{seed}"]
        assert f"--seed {seed} " in words
        assert "--max-update 10 " in words
    for option in ("--target-store", "--ensemble-paths"):
        assert option not in trainings["distil four-seed3"]
    by_name = {step.name: step for step in plan}
    other = by_name["decode three-seed3 on test"].command
    assert "--beam 7" in " ".join(other)
    assert other[other.index("--path") + 1] == "work/students/one-seed3/checkpoint_best.pt"
    third = next(one for one in planned if one.run.name == "three-seed3")
    assert third.training == ("distil one-seed3",)
    # The seeds of students are not those of data and teachers.
    assert "--seed 1 " in " ".join(by_name["teacher 1"].command)


def test_sets_that_nobody_learns_from_are_not_asked_for(tmp_path: Path, demo: Recipe) -> None:
    """A recipe without the data of one method's set serves the others."""
    more = "  two: {label: a, source: b, stages: [{share: 1, transfer: mono}]}\n"
    head = "transfer:\n  mono: {subset: mono, arguments: {targets: ensemble}}\n"
    path = tmp_path / "methods.yaml"
    path.write_text(head + HEAD + more, encoding="utf-8")
    bench = read_bench(path)
    assert plan_run(bench, Run("one", 3), demo, WORK).recipe.transfer == {}
    with pytest.raises(InputError, match=r"unknown set mono in transfer.mono.subset"):
        plan_run(bench, Run("two", 3), demo, WORK)
    wrong = replace(bench, transfer={})
    with pytest.raises(InputError, match=r"unknown set mono in methods.two.transfer"):
        plan_run(wrong, Run("two", 3), demo, WORK)


def test_commands_run_before_and_after_the_training(tmp_path: Path, demo: Recipe) -> None:
    bench = bench_of(
        tmp_path,
        """
  two:
    label: a
    source: b
    targets: none
    before:
      - {name: members, command: make --to {folder}/m, outputs: [m/a.pt], shared: true}
      - {name: store, command: "keep {shared}/m/a.pt {seed}", outputs: [store/manifest.json]}
    arguments: {criterion: mean_kl, target-store: "{folder}/store"}
    after:
      - {name: fit, command: "fit {student} {data} '{teachers}'", outputs: [fitted.json]}
    decode: {feature-density: "{folder}/fitted.json"}
""".replace("make --to {folder}/m", "'make --to {folder}/m'"),
    )
    planned = plan_run(bench, Run("two", 3), demo, WORK)
    by_name = {step.name: step for step in planned.steps}
    members, store = by_name["members two"], by_name["store two-seed3"]
    assert members.command == ("make", "--to", "work/runs/two/m")
    assert store.command == ("keep", "work/runs/two/m/a.pt", "3")
    assert store.needs(members)
    training = by_name["distil two-seed3"]
    assert training.needs(store)
    assert "work/runs/two-seed3/files/store" in training.command
    fit = by_name["fit two-seed3"]
    assert fit.needs(training)
    assert fit.command[1] == "work/students/two-seed3/checkpoint_best.pt"
    assert by_name["decode two-seed3 on test"].needs(fit)
    assert by_name["force two-seed3"].needs(fit)
    assert not by_name["force ensemble"].needs(fit)
    assert "decode ensemble on test" not in by_name  # another run's
    assert planned.training == ("members two", "store two-seed3", training.name, fit.name)
    assert not any(step.name.startswith("targets of") for step in planned.steps)
    shared = replace(bench.methods["two"].before[0], command="make {seed}")
    method = replace(bench.methods["two"], before=[shared])
    with pytest.raises(InputError, match=r"unknown placeholder \{seed\} in methods.two.members"):
        plan_run(replace(bench, methods={"two": method}), Run("two", 3), demo, WORK)


DIGITS = FILE.with_name("digits.yaml")


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file in (FILE, DIGITS) for name in read_bench(file).methods]
)
def test_fairseq_knows_the_options_of_every_method(file: Path, name: str) -> None:
    pytest.importorskip("fairseq", reason="needs the extra seqdistill[fairseq]")
    from fairseq import options

    import fairseq_plugins  # noqa: F401 (registers tasks and criteria)

    bench = read_bench(file)
    recipe = load(REPOSITORY / bench.recipe, data_root="absent")
    run = choose_runs(bench, [name], [1])[-1]
    assert run.method == name
    steps = plan_run(bench, run, recipe, WORK).steps
    for step in steps:
        if not {run.name, name} & {*step.name.split()}:
            continue
        if "seqdistill-fairseq-train" in step.command:
            parser = options.get_training_parser()
        elif "seqdistill-fairseq-generate" in step.command:
            parser = options.get_generation_parser()
        else:
            continue
        words = list(step.command[1:])
        if "--task" not in words:
            words = ["--task", "ensemble_teacher_translation", *words]
        options.parse_args_and_arch(parser, words)


# --- the table ------------------------------------------------------------------------------


def test_intervals_over_seeds_are_students() -> None:
    low, high = interval([1.0, 2.0, 3.0])  # s = 1, t(2 degrees of freedom) = 4.303
    assert low == pytest.approx(2 - 4.303 / math.sqrt(3))
    assert high == pytest.approx(2 + 4.303 / math.sqrt(3))
    assert interval([1.0]) == (None, None)
    assert interval([2.0] * 20) == (2.0, 2.0)


def result(value: float, name: str = "one", settings: str = "a", updates: int = 10) -> RunResults:
    """Results as a run leaves them, its samples elsewhere."""
    content = {
        "schema": SCHEMA,
        "run": name,
        "updates": updates,
        "settings": settings,
        "metrics": {
            "bleu": {"value": value, "low": value - 1, "high": value + 1},
            "chrf": {"value": 2 * value, "low": None, "high": None},
            "auroc:total_uncertainty:mean": {"value": 70.0, "low": 60.0, "high": 80.0},
        },
        "facts": {"label": "ensemble of 2"},
        "recipe": {"long": "record"},
    }
    return RunResults(content, Path("absent.npz"))


def test_rows_are_means_over_seeds_and_say_what_is_missing(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "  two: {label: Two, source: b}\n")
    found = {"ensemble": result(30.0), "one-seed3": result(20.0), "one-seed4": result(22.0)}
    rows = aggregate(bench, found, [3, 4])
    table = {(row.method, row.metric): row for row in rows}
    bleu = table["one", "bleu"]
    assert bleu.value == 21.0
    assert bleu.seeds == (3, 4)
    assert (bleu.bootstrap_low, bleu.bootstrap_high) == (20.0, 22.0)
    assert bleu.seeds_high == pytest.approx(21 + 12.706)  # s/√n = 1
    assert table["one", "chrf"].bootstrap_low is None
    assert table["two", "runs"].value == 0
    assert ("two", "bleu") not in table
    found["one-seed4"].content["metrics"].pop("bleu")  # a mean over some seeds is another number
    assert ("one", "bleu") not in {(r.method, r.metric) for r in aggregate(bench, found, [3, 4])}
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv") == [
        replace(row, **{k: float(f"{v:.6g}") for k, v in vars(row).items() if type(v) is float})
        for row in rows
    ]
    tables = markdown_tables(rows)
    lines = [[c.strip() for c in line.strip("| ").split(" | ")] for line in
             tables["summary"].splitlines()]  # fmt: skip
    assert lines[0] == ["method", "runs", "BLEU ↑", "chrF2 ↑", "AUROC TU ↑"]
    assert lines[2] == ["ensemble of 2", "1", "30.0 [29.0, 31.0]", "60.0", "70.0 [60.0, 80.0]"]
    assert lines[3] == ["One", "2", "21.0 ± 12.7", "42.0 ± 25.4", "70.0 ± 0.0"]
    assert lines[4] == ["Two", "0 of 1", "–", "–", "–"]
    found["one-seed3"].content["metrics"]["rho:mutual_information"] = {
        "value": 0.875, "low": None, "high": None
    }  # fmt: skip
    likeness = markdown_tables(aggregate(bench, {"one-seed3": found["one-seed3"]}, [3, 4]))
    lines = [[c.strip() for c in line.strip("| ").split(" | ")] for line in
             likeness["likeness"].splitlines()]  # fmt: skip
    assert lines[0] == ["method", "ρ MI ↑"]
    assert lines[2:] == [["One", "0.875"]]
    page = markdown_page("A title", rows, {"commit": "abc", "nothing": ""})
    assert page.startswith("# A title\n\n| method")
    assert page.endswith("- commit: abc\n")


# --- the archive ----------------------------------------------------------------------------


def sampled(value: float, seed: int) -> Sampled:
    return Sampled(value, value + 0.5 * np.random.default_rng(seed).standard_normal(300))


def test_an_archive_returns_what_it_was_given(tmp_path: Path) -> None:
    drawn = {"bleu": sampled(20.0, 1), "auroc:total_uncertainty:mean": sampled(70.0, 2)}
    write_samples(tmp_path / "samples.npz", drawn)
    archive = Archive(tmp_path / "archive")
    given = replace(result(20.0), path=tmp_path / "samples.npz")
    archive.add("one-seed3", given)
    assert archive.names() == ["one-seed3"]
    assert archive.fitting({"one-seed3": "a", "one-seed4": "a"}) == {"one-seed3"}
    found = archive.find("one-seed3", "a")
    assert found is not None
    assert found.metrics == given.metrics
    assert found.facts == given.facts
    assert "recipe" not in found.content
    for name, one in found.sampled.items():
        assert one.value == drawn[name].value
        assert one.replicates == pytest.approx(drawn[name].replicates, abs=1e-3)
    # Made in another way: it is there, and does not count.
    assert archive.find("one-seed3", "b") is None
    assert archive.has("one-seed3")
    (archive.root / "one-seed3.npz").write_bytes(b"broken")
    with pytest.raises(InputError, match="remove the run's two files"):
        _ = RunResults(found.content, found.path).sampled
    (archive.root / "one-seed3.json").write_text('{"schema": "other/1"}')
    with pytest.raises(InputError, match=r"expected seqdistill\.method-results/2, got other/1"):
        archive.find("one-seed3", "a")
    with pytest.raises(InputError, match="expected a folder, got a file"):
        Archive(archive.root / "one-seed3.json")


def test_the_table_has_runs_of_the_folder_and_of_the_archive(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "  two: {label: Two, source: b}\n")
    work = WorkFolder(tmp_path / "work")
    archive = Archive(tmp_path / "archive")
    write_samples(tmp_path / "samples.npz", {})

    def put(name: str, one: RunResults) -> None:
        folder = work.root / "runs" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(one.content))

    put("ensemble", result(30.0))
    put("one-seed3", result(20.0))  # the archive's goes before
    put("one-seed9", result(23.0))
    put("two-seed3", result(20.0, updates=11))
    put("unknown-seed3", result(20.0))
    for name, value, how in (("one-seed3", 21.0, "a"), ("one-seed4", 22.0, "old")):
        kept = replace(result(value, settings=how), path=tmp_path / "samples.npz")
        archive.add(name, kept)
    settings = {"one-seed3": "a", "one-seed4": "a", "two-seed3": "a"}
    found = collect(bench, work, archive, settings)
    values = {name: one.metrics["bleu"].value for name, one in found.items()}
    assert values == {"ensemble": 30.0, "one-seed3": 21.0, "one-seed9": 23.0}
    assert seeds_found(bench, found) == [3, 4, 9]
    alone = collect(bench, work)
    assert alone["one-seed3"].metrics["bleu"].value == 20.0


def test_settings_are_those_of_the_run_wherever_it_is(tmp_path: Path, demo: Recipe) -> None:
    bench = bench_of(tmp_path, "  two: {label: a, source: b}\n")

    def settings(bench: Bench, run: Run, recipe: Recipe = demo, folder: str = "work") -> str:
        work = WorkFolder(tmp_path / folder)
        return settings_of(plan_run(bench, run, recipe, work), bench, work)

    first = settings(bench, Run("one", 3))
    assert settings(bench, Run("one", 3), folder="elsewhere") == first
    one = bench.methods["one"]
    relabelled = replace(bench, methods={"one": replace(one, label="other", main=False)})
    assert settings(relabelled, Run("one", 3)) == first
    changed = replace(bench, methods={"one": replace(one, arguments={"criterion": "end2"})})
    others = [
        settings(bench, Run("one", 4)),
        settings(bench, Run("two", 3)),
        settings(changed, Run("one", 3)),
        settings(replace(bench, updates=11), Run("one", 3)),
        settings(replace(bench, detection=["mutual_information"]), Run("one", 3)),
        settings(bench, Run("one", 3), replace(demo, assess=replace(demo.assess, resamples=7))),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_differences_are_of_runs_with_the_same_seed(tmp_path: Path) -> None:
    path = tmp_path / "methods.yaml"
    path.write_text("against: one\n" + HEAD + "  two: {label: Two, source: b}\n", encoding="utf-8")
    bench = read_bench(path)
    found = {}
    for number, name in enumerate(("ensemble", "one-seed3", "one-seed4", "two-seed4")):
        write_samples(tmp_path / f"{name}.npz", {"bleu": sampled(20.0 + number, number)})
        found[name] = replace(result(20.0 + number), path=tmp_path / f"{name}.npz")
    rows = {row.method: row for row in difference_rows(bench, found, [3, 4])}
    assert set(rows) == {"ensemble", "two"}
    assert rows["two"].value == 1.0
    assert rows["two"].seeds == (4,)
    assert rows["ensemble"].value == -1.5  # one run, beside the mean of both
    expected = sampled(23.0, 3).replicates - sampled(22.0, 2).replicates
    low, high = np.quantile(expected, [0.025, 0.975])
    assert rows["two"].bootstrap_low == pytest.approx(low, abs=5e-3)
    assert rows["two"].bootstrap_high == pytest.approx(high, abs=5e-3)


def test_places_of_a_page_are_filled_again_and_again() -> None:
    page = "Before\n\n<!-- methods: summary -->\n\nAfter | this\n"
    tables = {"summary": "| a |\n| - |"}
    filled = fill_page(page, tables)
    assert filled == "Before\n\n<!-- methods: summary -->\n\n| a |\n| - |\n\nAfter | this\n"
    assert fill_page(filled, tables) == filled
    assert fill_page(filled, {"summary": "| b |"}).count("|") == 3
    with pytest.raises(InputError, match="unknown table costs; there are summary"):
        fill_page("<!-- methods: costs -->\n", tables)


def test_a_page_may_have_the_tables_of_several_benches() -> None:
    page = "<!-- methods: summary -->\n\n<!-- digits: summary -->\n\n| old |\n"
    tables = {"summary": "| a |\n| - |"}
    filled = fill_page(page, tables, "digits")
    assert filled == "<!-- methods: summary -->\n\n<!-- digits: summary -->\n\n| a |\n| - |\n"
    both = fill_page(filled, {"summary": "| b |"})
    assert both.startswith("<!-- methods: summary -->\n\n| b |\n")
    assert both.endswith("<!-- digits: summary -->\n\n| a |\n| - |\n")


def test_a_file_says_what_targets_its_methods_have(tmp_path: Path, demo: Recipe) -> None:
    more = "  two: {label: a, source: b, targets: none}\n"
    path = tmp_path / "methods.yaml"
    path.write_text("targets: online\n" + HEAD + more, encoding="utf-8")
    bench = read_bench(path)
    for name, mode in (("one", "online"), ("two", "none")):
        (stage,) = plan_run(bench, Run(name, 3), demo, WORK).recipe.stages_of(f"{name}-seed3")
        assert stage.targets == mode
    path.write_text("targets: shop\n" + HEAD, encoding="utf-8")
    with pytest.raises(InputError, match="unknown targets shop"):
        read_bench(path)


def test_digits_need_no_data_of_text() -> None:
    """Every entry of speech makes a plan, with teachers online and nothing stored."""
    bench = read_bench(DIGITS)
    recipe = load(REPOSITORY / bench.recipe, data_root="absent")
    plan = join_plans([plan_run(bench, run, recipe, WORK) for run in choose_runs(bench)])
    assert not [step.name for step in plan if "--target-store" in step.command]
    assert not [step.name for step in plan if step.command[:2] == ("seqdistill", "cache-targets")]
    mains = [name for name, method in bench.methods.items() if method.main]
    assert len(mains) >= 5
    for name in mains:
        assert {f"distil {name}-seed{seed}" for seed in bench.seeds} <= {s.name for s in plan}


def test_a_wrong_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="expected the columns method, label"):
        read_rows(tmp_path / "rows.csv")


def test_directions() -> None:
    assert higher_is_better("bleu")
    assert higher_is_better("auroc:total_uncertainty:mean")
    assert not higher_is_better("nll")
    assert not higher_is_better("train_cpu_minutes")


def test_the_mean_auroc_is_that_of_its_sets() -> None:
    generator = np.random.default_rng(0)
    inside = generator.integers(0, 8, 60) / 4  # with ties
    outside = [generator.integers(2, 9, n) / 4 for n in (40, 30)]
    found = mean_auroc(list(inside), [list(one) for one in outside], 400, 0).estimate
    expected = np.mean([auroc(inside, one) for one in outside])
    assert found.value == pytest.approx(100 * expected)
    # By hand: resamples drawn in the same way, one AUROC at a time.
    replicates = []
    for number in range(1, 3):
        streams = [np.random.default_rng([seed, 0]) for seed in (0, number)]
        one = []
        for _ in range(400):
            drawn = inside[streams[0].integers(0, 60, 60)]
            theirs = outside[number - 1]
            one.append(auroc(drawn, theirs[streams[1].integers(0, len(theirs), len(theirs))]))
        replicates.append(one)
    low, high = np.quantile(np.mean(replicates, axis=0), [0.025, 0.975])
    assert found.low == pytest.approx(100 * low)
    assert found.high == pytest.approx(100 * high)
    assert mean_auroc([0.0], [[1.0]], 0, 0).estimate.low is None


def test_bleu_has_an_interval_around_it() -> None:
    from sacrebleu.metrics import BLEU

    texts = ["a b c d e", "f g h i j k", "l m n o p", "q r s t u v w"]
    references = ["a b c d e", "f g h x j k", "l m n o p y", "q r z t u v w"]
    rows = [
        Hypothesis(
            id=number, rank=0, text=text, tokens=[2], pieces=["</s>"], log_prob=0.0,
            token_log_probs=[0.0], token_uncertainty={}, uncertainty={},
            model=ModelInfo("softmax", 1, "base"), reference=reference,
        )
        for number, (text, reference) in enumerate(zip(texts, references, strict=True))
    ]  # fmt: skip
    value = BLEU().corpus_score(texts, [references]).score
    found = bleu(rows, value, 300, 0).estimate
    assert found.value == value
    assert found.low is not None
    assert found.high is not None
    assert found.low < value < found.high <= 100
    # All resamples of equal sentences are equal: their BLEU is that of the corpus.
    alike = BLEU().corpus_score([texts[1]] * 5, [[references[1]] * 5]).score
    same = bleu([rows[1]] * 5, alike, 20, 0).estimate
    assert same.low == pytest.approx(same.value)
    assert same.high == pytest.approx(same.value)


def forced(number: int, log_probs: list[float]) -> Hypothesis:
    return Hypothesis(
        id=number, rank=0, text="a", tokens=[2], pieces=["</s>"], log_prob=sum(log_probs),
        token_log_probs=log_probs, token_uncertainty={}, uncertainty={},
        model=ModelInfo("softmax", 1, "base"), reference="a", forced=True,
    )  # fmt: skip


def test_likelihoods_of_two_runs_are_resampled_alike() -> None:
    generator = np.random.default_rng(1)
    texts = [list(-generator.random(1 + n % 4)) for n in range(30)]
    worse = [[value - 0.25 for value in text] for text in texts]
    one, other = (
        nll([forced(n, text) for n, text in enumerate(given)], 200, 3) for given in (texts, worse)
    )
    flat = [value for text in texts for value in text]
    assert one.value == pytest.approx(-np.mean(flat))
    stream = np.random.default_rng([3, 0])
    drawn = [texts[at] for at in stream.integers(0, 30, 30)]
    first = -sum(map(sum, drawn)) / sum(map(len, drawn))
    assert one.replicates[0] == pytest.approx(first)
    # A constant loss of every token is the same in every resample, wide as the intervals are.
    assert other.replicates - one.replicates == pytest.approx(np.full(200, 0.25))
    assert one.estimate.high - one.estimate.low > 0.05  # type: ignore[operator]


def test_the_table_of_differences_marks_those_that_are_not_by_chance() -> None:
    def row(name: str, metric: str, value: float, ends: tuple[float, float]) -> Row:
        return Row(name, name.upper(), metric, (1,), 1, value, None, None, *ends)

    rows = [
        row("a", "runs", 1.0, (1, 1)), row("b", "runs", 1.0, (1, 1)),
        row("a", "bleu", 20.0, (18, 22)), row("b", "bleu", 19.0, (17, 21)),
        row("b", "minus:bleu", -1.0, (-1.6, -0.4)), row("b", "minus:nll", 0.002, (-0.1, 0.1)),
    ]  # fmt: skip
    table = markdown_tables(rows)["differences"].splitlines()
    assert "BLEU" in table[0]
    assert table[0].index("BLEU") < table[0].index("NLL")
    assert len(table) == 3  # the one that all are compared with has no row
    assert "**-1.0 [-1.6, -0.4]**" in table[2]
    assert " +0.002 [-0.100, +0.100]" in table[2]


def test_word_errors_are_resampled_by_utterance() -> None:
    texts = ["one two", "three", "four five six", "seven"]
    references = ["one two", "two", "four six", "seven eight"]
    rows = [
        replace(forced(number, [-1.0]), text=text, reference=reference, forced=False)
        for number, (text, reference) in enumerate(zip(texts, references, strict=True))
    ]
    found = word_error_rate(rows, 3 / 7, 50, 2)
    edits, words = np.array([0, 1, 1, 1]), np.array([2, 1, 2, 2])
    stream = np.random.default_rng([2, 0])
    for replicate in found.replicates:
        drawn = stream.integers(0, 4, 4)
        assert replicate == pytest.approx(edits[drawn].sum() / words[drawn].sum())
    assert found.estimate.value == 3 / 7
