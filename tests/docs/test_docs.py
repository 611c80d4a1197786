"""What the documentation shows works: code runs, commands parse, links lead somewhere."""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from seqdistill.hypotheses import Against, Hypothesis, ModelInfo, Tempered
from seqdistill.uncertainty import MEASURES
from seqdistill.uncertainty.measures import MODEL_KINDS, measures_of
from tests.docs.pages import PAGES, ROOT, anchors, blocks, commands, links

PROGRAMS = Path(sys.executable).parent
DOCS = ROOT / "docs"
TASK = "ensemble_teacher_translation"

#: Programs of the system, of Python and of this checkout's tools, which are not parsed.
OTHERS = {".", "bash", "cat", "head", "mkdocs", "mv", "pip", "python"}

#: Programs that start others, on one machine or many.
LAUNCHERS = {"deepspeed", "torchrun"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@every_page
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
    namespace: dict[str, object] = {"__name__": "documentation"}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.language == "python" and not block.note.startswith("not run"):
            exec(compile(block.code, where, "exec"), namespace)
        elif block.language == "bash" and block.note == "run":
            result = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.code],
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert result.returncode == 0, f"{where}: {result.stderr}"


@every_page
def test_python_that_does_not_run_compiles(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.code, f"{page.name}:{block.line}", "exec")


@every_page
def test_commands_parse(page: Path) -> None:
    for where, words in commands(page):
        try:
            check_command(words)
        except SystemExit as stop:  # how argparse refuses; its message is on stderr
            pytest.fail(f"{where}: {' '.join(words)}: refused with {stop.code}")


def check_command(words: list[str]) -> None:
    """Parse a command with the program's own parser."""
    program, arguments = words[0], words[1:]
    if program in LAUNCHERS:  # what they start is parsed
        started = [word for word in words if word.startswith("seqdistill")]
        check_command(words[words.index(started[0]) :])
    elif program == "seqdistill":
        from seqdistill.cli.main import VERBS, build_parser

        assert arguments[0] in VERBS, words
        build_parser(arguments[0]).parse_args(arguments)
    elif program.startswith(("seqdistill-fairseq-", "fairseq-")):
        assert program in {e.name for e in importlib.metadata.entry_points(group="console_scripts")}
        check_fairseq_command(program, arguments)
    elif words[:3] == ["python", "-m", "recipes.common.run"]:
        from recipes.common import run

        given = run._parser().parse_args(words[3:])
        run.parse_stages(given.stages)
        assert (ROOT / given.recipe / "recipe.yaml").is_file() or "NAME" in given.recipe, words
    else:
        assert program in OTHERS, f"unknown program in {words}"
        if program == "bash":
            assert (ROOT / arguments[0]).is_file(), words


def check_fairseq_command(program: str, arguments: list[str]) -> None:
    """Parse all options, those of the task, the criterion and the architecture included."""
    from fairseq import options

    import fairseq_plugins  # noqa: F401  (registers them; fairseq would do it for --user-dir)

    is_ours = program.startswith("seqdistill-")
    verb = program.removeprefix("seqdistill-").removeprefix("fairseq-")
    if verb == "hydra-train":
        from hydra._internal.utils import get_args_parser

        get_args_parser().parse_args(arguments)
        return
    parsers: dict[str, Callable[[], argparse.ArgumentParser]] = {
        "preprocess": options.get_preprocessing_parser,
        "train": options.get_training_parser,
        "generate": options.get_generation_parser,
        "interactive": lambda: options.get_interactive_generation_parser("translation"),
        "validate": options.get_validation_parser,
    }
    if verb == "train" and "--deepspeed" in arguments:
        from fairseq_plugins.scale.launch import take_option

        path, arguments = take_option(arguments)
        assert path.endswith(".json"), arguments
    parser = parsers[verb]()
    if verb == "preprocess":
        parser.parse_args(arguments)
        return
    if "--user-dir" in arguments:
        place = arguments.index("--user-dir")
        assert arguments[place + 1] == "USER_DIR", arguments
        arguments = arguments[:place] + arguments[place + 2 :]
    elif not is_ours:
        assert TASK not in arguments, f"{program} needs --user-dir for --task {TASK}"
    if is_ours and "--task" not in arguments:
        arguments = ["--task", TASK, *arguments]
    options.parse_args_and_arch(parser, arguments)


def test_commands_are_found() -> None:
    found = {words[0] for page in PAGES for _, words in commands(page)}
    assert {"seqdistill", "fairseq-train", "seqdistill-fairseq-generate"} <= found


def test_a_wrong_option_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["seqdistill-fairseq-train", "data-bin", "--arch", "transformer"]
    command += ["--criterion", "proxy_dirichlet"]
    check_command([*command, "--concentration", "exact"])
    for wrong in (["--concentration", "exactly"], ["--no-such-option"]):
        with pytest.raises(SystemExit):
            check_command([*command, *wrong])
    capsys.readouterr()


def test_the_guide_has_every_option() -> None:
    from fairseq.tasks.translation import TranslationConfig

    from fairseq_plugins.criterions.distillation import DistillationConfig
    from fairseq_plugins.criterions.end2 import End2Config
    from fairseq_plugins.criterions.expectations import ExpectationsConfig
    from fairseq_plugins.criterions.hydra import HydraConfig
    from fairseq_plugins.criterions.kdgan import KdganConfig
    from fairseq_plugins.criterions.logit_space import LogitSpaceConfig
    from fairseq_plugins.criterions.proxy_dirichlet import ProxyDirichletConfig
    from fairseq_plugins.tasks.ensemble_teacher_translation import EnsembleTeacherTranslationConfig

    stock = {field.name for field in fields(TranslationConfig)} | {"sentence_avg"}
    guide = (DOCS / "fairseq.md").read_text(encoding="utf-8")
    for config in (
        EnsembleTeacherTranslationConfig,
        DistillationConfig,
        End2Config,
        ExpectationsConfig,
        HydraConfig,
        KdganConfig,
        LogitSpaceConfig,
        ProxyDirichletConfig,
    ):
        for field in fields(config):
            taken_over = str(field.default).startswith("${")  # another group's option
            if field.name not in stock and not field.name.startswith("_") and not taken_over:
                option = "--" + field.name.replace("_", "-")
                assert f"| `{option}` |" in guide, f"{option} of {config.__name__} is missing"


def test_the_hydra_configuration_has_known_keys() -> None:
    from fairseq_plugins.criterions.proxy_dirichlet import ProxyDirichletConfig
    from fairseq_plugins.tasks.ensemble_teacher_translation import EnsembleTeacherTranslationConfig

    (block,) = [b for b in blocks(DOCS / "fairseq.md") if b.language == "yaml"]
    configuration = yaml.safe_load(block.code)
    for group, config in (
        ("task", EnsembleTeacherTranslationConfig),
        ("criterion", ProxyDirichletConfig),
    ):
        assert configuration[group].keys() <= {field.name for field in fields(config)}


def test_the_example_line_is_a_hypothesis() -> None:
    examples = [b for b in blocks(DOCS / "jsonl.md") if b.language == "json"]
    assert examples
    for block in examples:
        record = json.loads(block.code)
        hypothesis = Hypothesis.from_dict(record)
        assert record.keys() == {field.name for field in fields(Hypothesis)}
        assert record["model"].keys() == {field.name for field in fields(ModelInfo)}
        assert set(hypothesis.uncertainty) == set(measures_of(hypothesis.model.kind))
        length = len(hypothesis.tokens)
        assert len(hypothesis.pieces) == len(hypothesis.token_log_probs) == length
        assert hypothesis.log_prob == pytest.approx(sum(hypothesis.token_log_probs))
        for name, values in hypothesis.token_uncertainty.items():
            assert len(values) == length
            assert hypothesis.uncertainty[name] == pytest.approx(sum(values) / length, rel=1e-3)


def test_tables_of_fields_and_measures_are_complete() -> None:
    page = (DOCS / "jsonl.md").read_text(encoding="utf-8")
    kinds = (Hypothesis, ModelInfo, Against, Tempered)
    for field in (field for kind in kinds for field in fields(kind)):
        assert f"| `{field.name}` |" in page, field.name
    formulas = (DOCS / "formulas.md").read_text(encoding="utf-8")
    for name, measure in MEASURES.items():
        has = [" yes |" if kind in measure.needs else " |" for kind in MODEL_KINDS]
        row = f"| `{name}` | {measure.level} |{''.join(has)}"
        assert row in page, f"expected the row {row}"
        assert f"`{name}`" in formulas, name


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_the_site_builds(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for outside in ("fonts.googleapis.com", "cdn.", "unpkg.com"):
        assert outside not in home
