"""The folders keep their order, importing loads no framework, docstring examples run."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import io
import json
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqdistill

PACKAGE = Path(seqdistill.__file__).parent
ADAPTERS = PACKAGE.parent / "fairseq_plugins"

# A stage may import those before it; what is below all is open to every stage and imports none.
BELOW_ALL = ("errors", "files", "hypotheses", "numerics", "records", "safe_loading", "workers")
STAGES = (
    "speech",
    "teachers",
    "targets",
    "losses",
    "kernels",
    "student",
    "uncertainty",
    "assessment",
    "planning",
    "report",
    "integrations",
    "cli",
)

FRAMEWORKS = (
    "fairseq",
    "fairseq_plugins",
    "transformers",
    "deepspeed",
    "torchaudio",
    "soundfile",
    "sentencepiece",
    "matplotlib",
    "jinja2",
    "sacrebleu",
    "jiwer",
    "sklearn",
    "scipy",
)

TRITON_KERNELS = {
    f"seqdistill.kernels.triton.{name}" for name in ("functions", "members", "student")
}

# Formulas live in the core; an adapter that names one of these computes something.
FORMULAS = {
    "lgamma", "digamma", "polygamma", "log_softmax", "logsumexp", "trigamma", "xlogy",
}  # fmt: skip


def module_names() -> list[str]:
    """Every module of the package by its dotted name, found as files: nothing is imported."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] == "__main__":
            continue
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


MODULES = module_names()


# --- imports --------------------------------------------------------------------------------

_IMPORT_ALL = """
import importlib, json, sys
frameworks, dependencies, modules = json.loads(sys.argv[1])
for dependency in dependencies:
    importlib.import_module(dependency)
before = {name for name in frameworks if name in sys.modules}
guilty = []
for module in modules:
    importlib.import_module(module)
    loaded = {name for name in frameworks if name in sys.modules} - before
    if loaded:
        guilty.append(f"{module} loads {', '.join(sorted(loaded))}")
        before |= loaded
print(json.dumps(guilty))
"""


def import_in_a_fresh_process(dependencies: list[str], modules: list[str]) -> list[str]:
    """Import modules one after the other; return which of them loaded a framework.

    What the dependencies load by themselves is not the package's doing.
    """
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, json.dumps([FRAMEWORKS, dependencies, modules])],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_any_module_loads_no_framework() -> None:
    assert "seqdistill.losses.proxy_dirichlet" in MODULES
    # The kernels themselves are written in Triton, which torch has for CUDA only.
    has_triton = importlib.util.find_spec("triton") is not None
    modules = [name for name in MODULES if has_triton or name not in TRITON_KERNELS]
    assert len(MODULES) - len(modules) == (0 if has_triton else len(TRITON_KERNELS))
    assert import_in_a_fresh_process(["numpy", "torch"], modules) == []


def test_the_import_check_sees_a_framework() -> None:
    assert import_in_a_fresh_process([], ["seqdistill", "jinja2"]) == ["jinja2 loads jinja2"]


def imported_stages(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, stage) of every import of a part of seqdistill, inside functions too."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            targets = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == "seqdistill" and len(parts) > 1 and not parts[1].startswith("__"):
                yield node.lineno, parts[1]


def later_imports(source: str, module: str, is_package: bool) -> list[str]:
    """The imports of a module that are of a later stage than its own."""
    own = module.split(".")[1]
    allowed = {*BELOW_ALL}
    if own in STAGES:
        allowed |= {*STAGES[: STAGES.index(own) + 1]}
    return [
        f"{module}:{line} imports {stage}"
        for line, stage in imported_stages(source, module, is_package)
        if stage not in allowed
    ]


def test_every_part_has_its_place_in_the_order() -> None:
    parts = {name.split(".")[1] for name in MODULES if "." in name}
    assert parts <= {*BELOW_ALL, *STAGES}, "give the new part its place in STAGES"
    assert {"teachers", "targets", "losses", "student", "uncertainty"} <= parts


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_no_stage_imports_a_later_one(module: str) -> None:
    path = PACKAGE.parent / Path(*module.split("."))
    is_package = path.is_dir()
    source = (path / "__init__.py" if is_package else path.with_suffix(".py")).read_text("utf-8")
    assert later_imports(source, module, is_package) == []


@pytest.mark.parametrize(
    "source",
    [
        "import seqdistill.report.page",
        "from seqdistill.report import page",
        "from seqdistill import report",
        "from ..report import page",
        "from .. import report",
        "def f():\n    from seqdistill.cli.main import main",
    ],
)
def test_the_order_check_sees_every_kind_of_import(source: str) -> None:
    assert len(later_imports(source, "seqdistill.losses.end2", False)) == 1
    assert (
        len(later_imports("from seqdistill.losses import LOSSES", "seqdistill.files", False)) == 1
    )
    earlier = "from seqdistill.teachers import x\nfrom .rows import y\nfrom seqdistill import files"
    assert later_imports(earlier, "seqdistill.losses.end2", False) == []


# --- adapters -------------------------------------------------------------------------------


def formulas_in(source: str) -> set[str]:
    """The names of formulas in a source, wherever they stand outside comments and strings."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME} & FORMULAS


def test_adapters_translate_and_compute_nothing() -> None:
    sources = sorted(ADAPTERS.rglob("*.py"))
    assert any(path.parent.name == "criterions" for path in sources)
    guilty = {}
    for path in sources:
        found = formulas_in(path.read_text("utf-8"))
        if found:
            guilty[str(path.relative_to(ADAPTERS))] = found
    assert guilty == {}


def test_the_adapter_check_sees_a_formula() -> None:
    assert formulas_in("import torch\nx = torch.special.digamma(y)") == {"digamma"}
    assert formulas_in("from torch import lgamma as f  # log_softmax\n's: xlogy'") == {"lgamma"}


# --- docstrings -----------------------------------------------------------------------------


def with_examples() -> list[str]:
    found = []
    for name in MODULES:
        path = PACKAGE.parent / Path(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if ">>>" in path.read_text("utf-8"):
            found.append(name)
    return found


@pytest.mark.parametrize("name", with_examples())
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), verbose=False)
    assert result.attempted > 0
    assert result.failed == 0, "see the captured output"


CORE = ("teachers", "targets", "losses", "student", "uncertainty")


@pytest.mark.parametrize("stage", CORE)
def test_public_functions_of_the_core_have_an_example(stage: str) -> None:
    package = importlib.import_module(f"seqdistill.{stage}")
    functions = {
        name: getattr(package, name)
        for name in package.__all__
        if inspect.isfunction(getattr(package, name))
    }
    assert functions
    without = [name for name, f in functions.items() if ">>>" not in (f.__doc__ or "")]
    assert without == []
