"""fairseq's command lines with this plug-in: ``seqdistill-fairseq-train`` and its siblings.

They are the stock programs with ``--user-dir`` added, and with ``--task
ensemble_teacher_translation`` where none is given; what a user can mend is printed as one line.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqdistill.cli.with_fairseq import light_imports
from seqdistill.errors import InputError

TASK = "ensemble_teacher_translation"


def user_dir() -> Path:
    """Return the folder of ``fairseq_plugins``, without importing it (nor fairseq).

    Raises:
        InputError: the plug-ins are not installed.
    """
    spec = importlib.util.find_spec("fairseq_plugins")
    if spec is None or spec.origin is None:
        raise InputError(
            "the package fairseq_plugins is not installed; install seqdistill again "
            '(pip install "seqdistill[fairseq]")'
        )
    return Path(spec.origin).resolve().parent


def preprocess() -> None:
    """Run ``fairseq-preprocess``."""
    with light_imports():
        from fairseq_cli.preprocess import cli_main

    _run("preprocess", cli_main, task=False)


def train() -> None:
    """Run ``fairseq-train``; with ``--deepspeed FILE`` on DeepSpeed's engine."""
    on_deepspeed = _given("--deepspeed", sys.argv[1:])
    if on_deepspeed and "--cpu" in sys.argv[1:]:
        # Read when DeepSpeed is imported, and fairseq does that by itself where it is installed.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _run("train", _train_on_deepspeed if on_deepspeed else _train)


def _train() -> None:
    with light_imports():
        from fairseq_cli import train as program

    # Looked up by fairseq when the configuration is known, also for processes that it spawns.
    program.main = functools.partial(_checked_training, main=program.main)
    program.cli_main()


def _checked_training(cfg: Any, main: Callable[[Any], None]) -> None:
    """Train in this process, unless its teachers are known beforehand not to fit."""
    if getattr(cfg.task, "ensemble_paths", None):
        from fairseq_plugins.fit import check_fit

        check_fit(cfg)
    main(cfg)


def _train_on_deepspeed() -> None:
    import fairseq_cli.train  # noqa: F401  (first: it sets the log up, if nothing has yet)

    from fairseq_plugins.scale.launch import run

    run()


def generate() -> None:
    """Run ``fairseq-generate``."""
    with light_imports():
        from fairseq_cli.generate import cli_main

    _run("generate", cli_main)


def validate() -> None:
    """Run ``fairseq-validate``."""
    with light_imports():
        from fairseq_cli.validate import cli_main

    _run("validate", cli_main)


def interactive() -> None:
    """Run ``fairseq-interactive``."""
    with light_imports():
        from fairseq_cli.interactive import cli_main

    _run("interactive", cli_main)


def hydra_train() -> None:
    """Run ``fairseq-hydra-train``."""
    with light_imports():
        from fairseq_cli import hydra_train as program

    program.pre_main = functools.partial(_checked_training, main=program.pre_main)
    arguments = sys.argv[1:]
    if not any(argument.startswith("common.user_dir=") for argument in arguments):
        sys.argv.append(f"common.user_dir={user_dir()}")
    _guarded("hydra-train", program.cli_main)


def _run(name: str, cli_main: Callable[[], object], task: bool = True) -> None:
    arguments = sys.argv[1:]
    if not _given("--user-dir", arguments):
        sys.argv[1:1] = ["--user-dir", str(user_dir())]
    if task and not _given("--task", arguments):
        sys.argv[1:1] = ["--task", TASK]
    _guarded(name, cli_main)


def _given(option: str, arguments: list[str]) -> bool:
    return any(a == option or a.startswith(option + "=") for a in arguments)


def _guarded(name: str, cli_main: Callable[[], object]) -> None:
    """Run a program; print what a user can mend as one line and exit with 1."""
    try:
        cli_main()
    except Exception as error:
        from fairseq_plugins.checkpoints import explain

        known = explain(error, "--path")
        if not isinstance(known, InputError):
            raise
        print(f"seqdistill-fairseq-{name}: error: {known}", file=sys.stderr)
        sys.exit(1)
