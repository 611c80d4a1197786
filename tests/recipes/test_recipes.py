"""Every recipe in the repository loads, at every scale, and makes a plan that hangs together."""

import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from recipes.common import checks
from recipes.common.command import render
from recipes.common.config import read_yaml
from recipes.common.plan import KINDS, make_plan
from recipes.common.recipe import REPOSITORY, load, read_resolved, require_data_root
from recipes.common.run import default_work_dir, main, parse_stages
from recipes.common.work import WorkFolder
from seqdistill.errors import InputError, UsageError
from seqdistill.uncertainty import MEASURES

FOLDERS = sorted(path.parent for path in REPOSITORY.glob("recipes/*/recipe.yaml"))
SCALES = [
    (folder, scale)
    for folder in FOLDERS
    for scale in ("full", *(read_yaml(folder / "recipe.yaml").get("scales") or {}))
]
DEMO = REPOSITORY / "recipes" / "demo"
SPEECH = REPOSITORY / "recipes" / "an4"
PUBLISHED = "what: w, value: 1, source: s"


def test_there_are_recipes() -> None:
    assert {folder.name for folder in FOLDERS} >= {"demo", "tatoeba_en_de", "an4"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_recipes_are_laid_out_alike(folder: Path) -> None:
    assert {"recipe.yaml", "run.sh", "README.md", "data.py"} <= {p.name for p in folder.iterdir()}
    assert f"recipes/{folder.name}" in (folder / "run.sh").read_text()


@pytest.mark.parametrize(
    ("folder", "scale"), SCALES, ids=lambda value: getattr(value, "name", value)
)
def test_recipes_load_and_their_steps_fit_together(folder: Path, scale: str) -> None:
    recipe = load(folder, [f"scale={scale}"])
    plan = make_plan(recipe, WorkFolder(Path("work")))
    assert len({step.slug for step in plan}) == len(plan)
    assert [step.stage for step in plan] == sorted(step.stage for step in plan)
    outputs = [output for step in plan for output in step.outputs]
    assert len(set(outputs)) == len(outputs)
    for number, step in enumerate(plan):
        assert not any(step.needs(later) for later in plan[number:]), step.name
        for given in step.inputs:
            inside = given.parts[0] == "work" and given.name != "recipe.json"
            made = any(step.needs(earlier) for earlier in plan[:number])
            assert made or not inside, f"{step.name} reads {given}, which nothing writes"
    assert set(recipe.assess.measures) <= MEASURES.keys()


def test_a_resolved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = load(DEMO, ["scale=tiny", "seed=3"])
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(recipe)))
    assert read_resolved(tmp_path / "recipe.json") == recipe
    assert recipe.scale == "tiny"
    assert recipe.seed == 3


def test_scales_have_work_folders_of_their_own() -> None:
    folders = [default_work_dir(load(DEMO, [f"scale={scale}"])) for scale in ("full", "tiny")]
    assert [folder.name for folder in folders] == ["demo", "demo-tiny"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("teachers.cuont=2", r"unknown key teachers.cuont; did you mean count\?"),
        ("scale=tinny", r"unknown scale tinny; did you mean tiny\?"),
        ("data.options.trian=5", r"unknown key data.options.trian; did you mean train\?"),
        ("systems.proxy.models=proxi", r"unknown model proxi in systems.proxy.models; did you"),
        ("systems.proxy.predictive=mode", "systems.proxy.predictive must be base or mean"),
        ("reference=nobody", "unknown system nobody in reference"),
        ("students.init=teacher9", "unknown teacher teacher9 in students.init; did you mean"),
        ("teachers.mode=borrowed", "teachers.mode must be train or given"),
        ("teachers.mode=given", "teachers.given has to say which"),
        ("teachers.count=0", "there are no teachers"),
        ("students.each.teacher1={}", "a teacher has that name"),
        ("data.ood.test=again", "that name is the in-domain set's"),
        ("data.tests.valid=again", r"data\.tests\.valid: that name is the in-domain set's"),
        ("data.tests.permuted=again", "an out-of-domain set has that name"),
        ("data.permuted.shuffled=test", "unknown set shuffled in data.permuted"),
        ("data.permuted.permuted=tset", r"unknown set tset in data.permuted.permuted; did you"),
        ("data.permuted.permuted=permuted", "unknown set permuted in data.permuted.permuted"),
        ("students.average=0", "students.average must be at least 1"),
        ("students.each.end.init=teacher9", "unknown teacher teacher9 in students.each.end.init"),
        ("launch.processes=0", "launch.processes must be at least 1"),
        ("launch.deepspeed=none.json", "launch.deepspeed: none.json: no such file"),
        ("launch={processes: 2, launcher: [srun]}", "launch.launcher takes its place"),
        (
            f"published=[{{{PUBLISHED}, system: nobody}}]",
            r"unknown system nobody in published\[0\]",
        ),
        (f"published=[{{{PUBLISHED}, system: end, set: a}}]", r"unknown set a in published\[0\]"),
        (f"published=[{{{PUBLISHED}, system: end, score: a}}]", r"unknown score a in published"),
        ("students.each.end.targets=shop", "unknown mode shop in students.each.end.targets"),
        ("students.each.end.transfer=none", "unknown set none in students.each.end.transfer"),
        ("students.each.end.stages=[{transfer: oh}]", r"in students.each.end.stages\[0\].transfer"),
        ("transfer.more={subset: mono}", "unknown set mono in transfer.more.subset"),
        ("students.each={a.b: {}}", "a student's name has no dots"),
        ("data.unlabelled.permuted=again", "data.unlabelled.permuted: another set has that name"),
        ("data.unlabelled.test=again", "that name is the in-domain set's"),
        ("jobs=0", "jobs must be at least 1"),
        ("name=other", "unknown key name"),
    ],
)
def test_settings_that_make_no_sense(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(DEMO, [setting])


@pytest.mark.parametrize(
    ("folder", "setting", "message"),
    [
        (DEMO, "data.kind=sound", "unknown kind sound in data.kind"),
        (DEMO, "data.source_lang=null", "data.source_lang and data.target_lang have to name"),
        (DEMO, "data.prepare.pieces=20", "data.prepare is for data.kind speech"),
        (SPEECH, "data.source_lang=en", "data.source_lang is for data.kind text"),
        (SPEECH, "language_model={}", "language_model is for data.kind text"),
        (SPEECH, "transfer.more={}", "transfer is for data.kind text"),
        (SPEECH, "data.pieces.size=20", "data.pieces is for data.kind text"),
        (SPEECH, "data.tests.more=again", "data.tests is for data.kind text"),
        (SPEECH, "gradients.at.teacher1=start", "gradients is for data.kind text"),
        (SPEECH, "students.each.end.targets=store", "students.each.end: targets must be online"),
        (SPEECH, "targets.mode=store", "targets.mode must be online for data.kind speech"),
    ],
)
def test_keys_of_another_kind_of_data(folder: Path, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(folder, ["scale=tiny", setting])


def test_every_kind_has_a_plan() -> None:
    assert tuple(KINDS) == checks.KINDS


def test_speech_has_its_task_everywhere_and_its_teachers_online() -> None:
    recipe = load(SPEECH, ["scale=tiny"])
    plan = make_plan(recipe, WorkFolder(Path("work")))
    assert [step.name for step in plan if step.stage in (1, 3)] == ["audio", "prepare"]
    with_models = [step for step in plan if step.command[0].startswith("seqdistill-fairseq")]
    assert len(with_models) == 2 + 2 + 3 * 3 + 3 * 2  # teachers, students, decode, force
    for step in with_models:
        words = " ".join(step.command)
        assert "--task ensemble_teacher_speech_to_text --config-yaml config.yaml" in words
        assert "--remove-bpe" not in words
        assert ("--ensemble-paths" in words) == (step.stage == 4)
        assert Path("work/data/prepared/dict.txt") in step.inputs
    (prepare,) = (step for step in plan if step.name == "prepare")
    assert Path("recipes/an4/specaugment.yaml") in prepare.inputs
    assert "noise10=work/data/audio/noise10" in prepare.command


def test_given_teachers_of_speech_bring_their_pieces() -> None:
    given = "{checkpoints: [a.pt, b.pt], model: spm.model, dictionary: dict.txt}"
    settings = ["scale=tiny", "teachers.mode=given", f"teachers.given={given}"]
    plan = make_plan(load(SPEECH, settings), WorkFolder(Path("work")))
    prepare = next(step for step in plan if step.name == "prepare")
    assert " ".join(prepare.command).endswith("--piece-model spm.model --dictionary dict.txt")
    assert {Path("spm.model"), Path("dict.txt")} <= set(prepare.inputs)
    assert not any(step.stage == 2 for step in plan)


def test_recipes_live_in_the_recipes_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recipes live there"):
        load(tmp_path)


def test_the_data_root_is_found_or_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = REPOSITORY / "recipes" / "tatoeba_en_de"
    monkeypatch.setenv("SEQDISTILL_DATA_ROOT", str(tmp_path))
    assert load(folder).data_root == str(tmp_path)
    require_data_root(load(folder))
    absent = load(folder, data_root=str(tmp_path / "absent"))
    assert absent.given is not None
    assert absent.given.model.startswith(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="--data-root FOLDER or the environment variable"):
        require_data_root(absent)
    assert load(DEMO).data_root is None
    require_data_root(load(DEMO))


def test_options_render_as_fairseq_wants_them() -> None:
    values = {"a": 1, "b": True, "c": None, "d": False, "e": [1, 2], "f": "(0.9, 0.98)"}
    assert render(values, "step") == ["--a", "1", "--b", "--e", "1", "2", "--f", "(0.9, 0.98)"]
    with pytest.raises(InputError, match="without its dashes"):
        render({"--beam": 5}, "step")
    with pytest.raises(InputError, match="cannot be a mapping"):
        render({"beam": {"size": 5}}, "step")


def test_stages() -> None:
    assert parse_stages("3") == {3}
    assert parse_stages("1,4-6") == {1, 4, 5, 6}
    for text in ("0", "9", "5-3", "x", "3-", "", "1-9"):
        with pytest.raises(UsageError, match="--stages"):
            parse_stages(text)


def test_a_dry_run_prints_commands_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    arguments = [str(DEMO), "--work-dir", str(work), "--dry-run", "--stages", "2-4"]
    assert main([*arguments, "--set", "scale=tiny"]) == 0
    printed = capsys.readouterr().out
    assert "# 3 targets: targets of valid (waits for its input)" in printed
    assert "# 4 distil: distil proxy (waits for its input)" in printed
    assert "--criterion proxy_dirichlet" in printed
    assert "--ensemble-paths" not in printed.partition("# 4 distil")[2]
    assert not work.exists()


def test_wrong_usage_and_wrong_input_have_their_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([str(DEMO), "--dry-run", "--set", "bean=5"]) == 1
    assert "error: unknown key bean" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([str(DEMO), "--stages", "9"])
    assert stop.value.code == 2


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m recipes.common.run recipes/demo --dry-run | true"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert result.stderr == ""


def test_targets_are_stored_or_the_teachers_run_online(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(DEMO), "--work-dir", str(tmp_path / "work"), "--dry-run", "--stages", "3-4"]
    assert main([*arguments, "--set", "targets.mode=online"]) == 0
    printed = capsys.readouterr().out
    assert "cache-targets" not in printed
    assert "--ensemble-paths" in printed
    assert main([*arguments, "--set", "targets.arguments.targets=both"]) == 0
    printed = capsys.readouterr().out
    train_line, valid_line = (
        line for line in printed.splitlines() if line.startswith("seqdistill cache-targets")
    )
    assert "--targets both" in train_line
    assert "--targets" not in valid_line  # students are judged on references
    assert "seqdistill-fairseq-train" in printed
    assert "targets/train/data --seed" in printed
    assert main([*arguments, "--set", "targets.mode=stored"]) == 1
    assert "store, online or none" in capsys.readouterr().err


def commands_of(*settings: str) -> dict[str, list[str]]:
    plan = make_plan(load(DEMO, ["scale=tiny", *settings]), WorkFolder(Path("work")))
    return {step.name: list(step.command) for step in plan}


def test_trainings_start_as_they_are_told() -> None:
    words = commands_of("launch.processes=2", "launch.environment={A: b}")["teacher 1"]
    assert words[:7] == [
        "env", "A=b", "torchrun", "--standalone", "--nproc_per_node", "2", "--no-python",
    ]  # fmt: skip
    assert words[7] == "seqdistill-fairseq-train"
    assert "--deepspeed" not in words
    words = commands_of("launch.launcher=[srun, --nodes=2]")["distil proxy"]
    assert words[:3] == ["srun", "--nodes=2", "seqdistill-fairseq-train"]
    assert commands_of()["distil proxy"][0] == "seqdistill-fairseq-train"


def test_the_engines_checkpoints_are_put_together_before_anything_reads_them() -> None:
    json_file = "recipes/wmt17_en_de/deepspeed/stage1.json"
    plan = make_plan(
        load(DEMO, ["scale=tiny", f"launch.deepspeed={json_file}"]), WorkFolder(Path("work"))
    )
    steps = {step.name: step for step in plan}
    training, whole = steps["distil proxy"], steps["consolidate proxy"]
    assert f"--deepspeed {json_file}" in " ".join(training.command)
    assert Path(json_file) in training.inputs  # another configuration is another training
    assert " ".join(whole.command) == (
        "seqdistill consolidate work/students/proxy/checkpoint_best.pt --output "
        "work/students/proxy/consolidated.pt --overwrite"
    )
    assert whole.needs(training)
    assert whole.stage == 4
    for name in ("decode proxy on test", "force proxy", "gradients"):
        assert "work/students/proxy/consolidated.pt" in " ".join(steps[name].command)
    store = " ".join(steps["targets of train"].command)
    assert "work/teachers/teacher1/consolidated.pt:work/teachers/teacher2/consolidated" in store
    assert "--student-init work/teachers/teacher1/consolidated.pt" in " ".join(training.command)


def test_students_may_be_averaged_and_start_on_their_own() -> None:
    settings = ("students.average=3", "students.each.proxy.init=random")
    commands = {name: " ".join(words) for name, words in commands_of(*settings).items()}
    assert "--keep-last-epochs 3" in commands["distil proxy"]
    assert "--student-init" not in commands["distil proxy"]
    assert "--student-init work/teachers/teacher1/checkpoint_best.pt" in commands["distil end"]
    assert "work/students/proxy/averaged.pt" in commands["decode proxy on test"]
    assert "--last 3 --output work/students/end/averaged.pt" in commands["average end"]


def test_more_test_sets_are_decoded_and_permuted_ones_are_made_of_pieces() -> None:
    settings = ("data.tests.later=the test set of later", "data.permuted={permuted: test}")
    plan = make_plan(load(DEMO, ["scale=tiny", *settings]), WorkFolder(Path("work")))
    steps = {step.name: step for step in plan}
    assert Path("work/data/text/permuted.src") not in steps["text"].outputs
    assert Path("work/data/text/later.src") in steps["text"].outputs
    assert "--permute permuted=test --seed 1" in " ".join(steps["pieces"].command)
    assert Path("work/data/pieces/permuted.src") in steps["pieces"].outputs
    for name in ("later", "permuted"):
        assert f"--gen-subset {name}" in " ".join(steps[f"decode end on {name}"].command)
        assert Path(f"work/decode/end/{name}.jsonl") in steps["assess"].inputs


STAGES = """
    [{targets: none, arguments: {criterion: label_smoothed_cross_entropy, max-update: 3}},
     {transfer: outputs, arguments: {freeze: encoder.*}},
     {transfer: mono, targets: none}]
"""


def test_a_student_in_stages_starts_each_from_the_last() -> None:
    settings = [
        "scale=tiny",
        "data.unlabelled.mono=sentences without references",
        "transfer.outputs={arguments: {targets: both, outputs: 2}}",
        "transfer.mono={subset: mono, arguments: {targets: ensemble, beam: 3}}",
        f"students.each.end.stages={STAGES}",
    ]
    plan = make_plan(load(DEMO, settings), WorkFolder(Path("work")))
    parts = {step.name: step for step in plan if step.name.startswith("distil end")}
    names = ["distil end part 1", "distil end part 2", "distil end"]
    assert list(parts) == names
    folders = ["end.part1", "end.part2", "end"]
    for name, folder in zip(names, folders, strict=True):
        assert parts[name].outputs == (Path(f"work/students/{folder}/checkpoint_best.pt"),)
        assert parts[name].resumes
    lines = {name: f"{' '.join(step.command)} " for name, step in parts.items()}
    init = "--student-init work/students/{}/checkpoint_best.pt "
    assert init.format("end.part1") in lines[names[1]]
    assert init.format("end.part2") in lines[names[2]]
    assert "--student-init work/teachers/teacher1/" in lines[names[0]]
    assert "--target-store" not in lines[names[0]]
    assert "--max-update 3 " in lines[names[0]]
    assert "--target-store work/transfer/outputs:work/targets/valid " in lines[names[1]]
    assert lines[names[1]].startswith("seqdistill-fairseq-train work/transfer/outputs/data ")
    assert "--freeze encoder.* " in lines[names[1]]
    assert lines[names[2]].startswith("seqdistill-fairseq-train work/transfer/mono/data ")
    assert "--train-subset mono " in lines[names[2]]
    assert "--target-store" not in lines[names[2]]
    by_name = {step.name: step for step in plan}
    outputs = by_name["targets of transfer outputs"]
    mono = by_name["targets of transfer mono"]
    assert parts[names[1]].needs(outputs)
    assert parts[names[2]].needs(mono)
    assert not parts[names[0]].needs(by_name["targets of train"])
    assert "--subset mono " in " ".join(mono.command)
    assert "--beam 3 " in f"{' '.join(mono.command)} "
    assert "--targets" not in " ".join(by_name["targets of valid"].command)
    assert Path("work/data/text/mono.src") in by_name["text"].outputs
    for number, step in enumerate(plan):
        assert not any(step.needs(later) for later in plan[number:]), step.name


def test_sources_are_drawn_from_a_language_model_where_a_set_wants_it() -> None:
    drawn = "transfer.drawn={generate: {count: 50, top-p: 0.9}, arguments: {targets: ensemble}}"
    settings = ["scale=tiny", drawn, "students.each.end.transfer=drawn", "seed=3"]
    plan = make_plan(load(DEMO, settings), WorkFolder(Path("work")))
    steps = {step.name: step for step in plan}
    names = ["sources of the language model", "language model", "sources of transfer drawn",
             "targets of transfer drawn", "distil end"]  # fmt: skip
    for earlier, later in itertools.pairwise(names):
        assert steps[later].needs(steps[earlier])
    lines = {name: f"{' '.join(steps[name].command)} " for name in names}
    assert lines[names[0]].startswith("fairseq-preprocess --only-source --trainpref work/data/pie")
    assert "--task language_modeling --sample-break-mode eos " in lines[names[1]]
    assert "--arch transformer_lm " in lines[names[1]]
    assert "--seed 3 " in lines[names[1]]
    assert "--target-store" not in lines[names[1]]
    assert "--path work/language_model/model/checkpoint_best.pt --name drawn " in lines[names[2]]
    assert "--seed 3 --count 50 --top-p 0.9 " in lines[names[2]]
    assert lines[names[3]].startswith("seqdistill cache-targets work/generated/drawn/data -s src")
    assert "--subset drawn " in lines[names[3]]
    assert "--train-subset drawn " in lines[names[4]]
    assert {steps[name].stage for name in names[:4]} == {3}
    # A recipe whose students use no such set trains no language model.
    assert "language model" not in commands_of(drawn)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["language_model=null"], "transfer.a: its sources are drawn from a language model; say"),
        (["transfer.a.subset=mono"], "transfer.a: its sources are drawn, so subset has no meaning"),
        (["transfer.a.generate={count: null}"], "transfer.a.generate.count has to say how many"),
        (
            ["transfer.a.arguments={targets: null}"],
            "transfer.a: a has no references, so the ensemble has to",
        ),
        (["data.ood.a=text"], "transfer.a: its sources are drawn, and another set has that name"),
    ],
)
def test_sets_that_cannot_be_drawn(settings: list[str], message: str) -> None:
    drawn = "transfer.a={generate: {count: 5}, arguments: {targets: ensemble}}"
    with pytest.raises(InputError, match=message):
        load(DEMO, ["data.unlabelled.mono=text", drawn, *settings])


def test_sources_without_references_have_to_be_translated() -> None:
    settings = ["data.unlabelled.mono=text", "transfer.mono={subset: mono}"]
    with pytest.raises(InputError, match="mono has no references, so the ensemble has to"):
        load(DEMO, settings)
