"""``seqdistill-fairseq-train … --deepspeed ds.json``: fairseq-train with another Trainer class.

fairseq's program is run as it is; what is replaced is one name, the ``Trainer`` that it looks up,
and (so that this holds in processes that fairseq spawns, too) its ``main`` by a function that does
so and calls it.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fairseq_cli import train as program

from seqdistill.errors import InputError

OPTION = "--deepspeed"

#: fairseq's own, before it is replaced.
_main = program.main


def run() -> None:
    """Run fairseq-train on DeepSpeed's engine; the arguments are those of the process.

    Raises:
        InputError: DeepSpeed is not installed, or options cannot be used with it.
    """
    path, arguments = take_option(sys.argv[1:])
    require_deepspeed()
    use_cpu = "--cpu" in arguments
    check_accelerator(os.environ, use_cpu)
    # fairseq lets --bf16 imply --tpu, and looks for one before its main is called.
    for option in ("--tpu", "--memory-efficient-bf16"):
        if option in arguments:
            raise InputError(f"{option} cannot be used with {OPTION}; --bf16 can")
    bf16 = "--bf16" in arguments
    arguments = [argument for argument in arguments if argument != "--bf16"]
    sys.argv[1:] = [*arguments, *launcher_options(os.environ, arguments, use_cpu)]
    program.main = functools.partial(train, path=path, bf16=bf16)
    program.cli_main(modify_parser=_describe)


def train(cfg: Any, path: str, bf16: bool = False) -> None:
    """Train in this process; fairseq's ``main``, with the engine's Trainer.

    Args:
        cfg: fairseq's configuration.
        path: the JSON's.
        bf16: whether ``--bf16`` was given.
    """
    from fairseq_plugins.fit import check_fit
    from fairseq_plugins.scale.agreement import read_json
    from fairseq_plugins.scale.configuration import engine_configuration
    from fairseq_plugins.scale.ending import explained
    from fairseq_plugins.scale.saving import install
    from fairseq_plugins.scale.trainer import DeepSpeedTrainer

    cfg.common.bf16 = bf16
    world_size = cfg.distributed_training.distributed_world_size
    configuration = engine_configuration(read_json(path), cfg, world_size, path)
    check_fit(cfg, configuration.values.get("zero_optimization"))
    install(cfg)
    program.Trainer = functools.partial(DeepSpeedTrainer, configuration=configuration)
    with explained(cfg.checkpoint.save_dir):
        _main(cfg)


def take_option(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Split ``--deepspeed FILE`` from the other arguments.

    Raises:
        InputError: no file, or two.
    """
    rest, paths = [], []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == OPTION:
            path = next(waiting, "")
            if not path or path.startswith("--"):
                raise InputError(
                    f"{OPTION}: expected a JSON file after it, got {path or 'nothing'}"
                )
            paths.append(path)
        elif argument.startswith(OPTION + "="):
            paths.append(argument.removeprefix(OPTION + "="))
        else:
            rest.append(argument)
    if len(paths) != 1:
        raise InputError(f"{OPTION}: expected one JSON file, got {len(paths)}: {', '.join(paths)}")
    return paths[0], rest


def require_deepspeed() -> None:
    """Refuse to go on without DeepSpeed.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError(
            f'{OPTION} needs DeepSpeed, which is not installed: pip install "seqdistill[deepspeed]"'
        )


def check_accelerator(environment: Mapping[str, str], use_cpu: bool) -> None:
    """Refuse another accelerator than fairseq's.

    Raises:
        InputError: ``DS_ACCELERATOR`` contradicts ``--cpu``.
    """
    chosen = environment.get("DS_ACCELERATOR")
    if use_cpu and chosen not in (None, "cpu"):
        raise InputError(f"--cpu, but DS_ACCELERATOR is {chosen!r}; unset it, or leave --cpu away")
    if not use_cpu and chosen == "cpu" and torch.cuda.is_available():
        raise InputError("DS_ACCELERATOR is 'cpu'; give --cpu as well, or unset it")


def launcher_options(
    environment: Mapping[str, str], arguments: Sequence[str], use_cpu: bool
) -> list[str]:
    """Return fairseq's options for a process that torchrun or the deepspeed launcher started.

    fairseq would find the launcher's variables by itself, but asks for a GPU to go with them.
    """
    given = [argument.partition("=")[0] for argument in arguments]
    if "--distributed-init-method" in given:
        return []
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        return []
    for option in ("--distributed-world-size", "--distributed-rank"):
        if option in given:
            raise InputError(
                f"{option}: the launcher says that (RANK {environment['RANK']} of WORLD_SIZE "
                f"{environment['WORLD_SIZE']}); leave the option away"
            )
    options = ["--distributed-init-method", "env://", "--distributed-no-spawn"]
    options += ["--distributed-world-size", environment["WORLD_SIZE"]]
    options += ["--distributed-rank", environment["RANK"]]
    if not {"--device-id", "--local_rank", "--local-rank"} & set(given):
        options += ["--device-id", environment["LOCAL_RANK"]]
    if use_cpu and "--distributed-backend" not in given:
        options += ["--distributed-backend", "gloo"]
    return options


def _describe(parser: Any) -> None:
    """Show the option in ``--help``; fairseq asks twice."""
    if OPTION in parser.format_usage():
        return
    parser.add_argument(
        OPTION, metavar="JSON", help="train on DeepSpeed's engine, as this file configures it"
    )
