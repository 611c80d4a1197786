"""``seqdistill plan``: memory and time of a distillation, before it is started."""

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from seqdistill.cli.common import add_verb, positive
from seqdistill.errors import UsageError
from seqdistill.planning import (
    MACHINES,
    PLACEMENTS,
    PRESETS,
    Assumptions,
    Machine,
    ModelSize,
    Training,
    machine,
    make_plan,
    preset,
    text_size,
)
from seqdistill.planning.machines import BYTES, GIB

_DESCRIPTION = """\
Predict the memory of a GPU and the time of an update, by part, from counted operations and bytes.
The exit status is 1 if the training does not fit; what to change is said then."""

_EXAMPLE = """\
seqdistill plan --student transformer-big --members 10 --device v100 --precision float16
seqdistill plan --student student.pt --teacher teacher.pt --members 20 --gpus 8 --zero-stage 2
seqdistill plan --device a100-80 --sweep"""

_SIZES = f"{', '.join(PRESETS)}, LAYERS,WIDTH,FFN,HEADS or a checkpoint"


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "plan", description=_DESCRIPTION, example=_EXAMPLE)
    models = parser.add_argument_group("models")
    models.add_argument("--student", default="transformer-big", metavar="SIZE", help=_SIZES)
    models.add_argument(
        "--teacher", metavar="SIZE", help="of every member (default: the student's)"
    )
    models.add_argument("--members", type=int, default=5, metavar="M", help="0 for none")
    models.add_argument(
        "--vocabulary",
        type=positive,
        metavar="V",
        help="entries (default: the checkpoint's, else 40000)",
    )
    models.add_argument(
        "--target-store", type=positive, metavar="K", help="targets of a store, K pieces a token"
    )
    batch = parser.add_argument_group("batch")
    batch.add_argument(
        "--tokens",
        type=positive,
        default=4096,
        metavar="N",
        help="target tokens of a micro-batch on a GPU, padding included",
    )
    batch.add_argument("--update-freq", type=positive, default=1, metavar="N")
    batch.add_argument(
        "--source-length",
        type=positive,
        metavar="N",
        help="positions, or frames of speech (default: 32; 800 of speech)",
    )
    batch.add_argument("--target-length", type=positive, default=32, metavar="N")
    batch.add_argument("--updates", type=positive, metavar="N", help="of the training: adds hours")
    where = parser.add_argument_group("machine")
    where.add_argument("--device", choices=MACHINES, default="a100-40")
    where.add_argument("--gpus", type=positive, default=1, metavar="N", help="of a node")
    where.add_argument("--nodes", type=positive, default=1, metavar="N")
    where.add_argument("--memory", type=float, metavar="GIB", help="of a GPU")
    where.add_argument("--tflops", type=float, metavar="N", help="peak in the precision chosen")
    where.add_argument("--bandwidth", type=float, metavar="GB/S", help="of a GPU's memory")
    where.add_argument("--link", type=float, metavar="GB/S", help="between the GPUs of a node")
    where.add_argument(
        "--calibrate",
        action="store_true",
        help="measure this machine's rates (--device cpu, or the GPU here)",
    )
    how = parser.add_argument_group("how it is trained")
    how.add_argument("--precision", choices=BYTES, default="bfloat16", help="of the student")
    how.add_argument("--teacher-precision", choices=BYTES, help="(default: the student's)")
    how.add_argument("--zero-stage", type=int, choices=range(4), default=0)
    how.add_argument("--offload-optimizer", action="store_true")
    how.add_argument("--checkpoint-activations", action="store_true")
    how.add_argument("--teacher-placement", choices=PLACEMENTS, default="replicate")
    how.add_argument(
        "--teacher-group-size",
        type=positive,
        metavar="G",
        help="ranks that share members (default: those of a node, at most M)",
    )
    how.add_argument(
        "--reduce-bucket",
        type=positive,
        default=500_000_000,
        metavar="N",
        help="DeepSpeed's reduce_bucket_size",
    )
    how.add_argument(
        "--max-live",
        type=positive,
        default=1_000_000_000,
        metavar="N",
        help="DeepSpeed's stage3_max_live_parameters",
    )
    parser.add_argument(
        "--assume",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set an assumption; --json shows all",
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="a table over V, M, GPUs and placements instead of one plan",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the plan; returns the exit status."""
    from seqdistill.planning.tables import plan_text, sweep, sweep_text

    training = training_of(args)
    if args.sweep:
        if args.json:
            records = [plan.record() for plans in sweep(training) for plan in plans]
            print(json.dumps(records, indent=1, ensure_ascii=False))
        else:
            print(sweep_text(training))
        return 0
    plan = make_plan(training)
    if args.json:
        print(json.dumps(plan.record(), indent=1, ensure_ascii=False))
    else:
        print(plan_text(plan))
    return 0 if plan.fits else 1


def training_of(args: argparse.Namespace) -> Training:
    """Return what the options describe."""
    student, V = _size(args.student)
    teacher, teacher_V = (student, V) if args.teacher is None else _size(args.teacher)
    if args.vocabulary is not None:
        V = args.vocabulary
    elif V is not None and teacher_V is not None and teacher_V != V:
        raise UsageError(
            f"the student has {V} vocabulary entries, the teacher {teacher_V}; student and "
            "teachers must share one vocabulary"
        )
    device, assumptions = _machine(args)
    source_length = args.source_length or (800 if student.is_speech else 32)
    return Training(
        student=student,
        teacher=teacher,
        M=args.members,
        V=V or teacher_V or 40_000,
        tokens=args.tokens,
        source_length=source_length,
        target_length=args.target_length,
        machine=device,
        gpus=args.gpus,
        nodes=args.nodes,
        precision=args.precision,
        teacher_precision=args.teacher_precision or args.precision,
        update_freq=args.update_freq,
        stage=args.zero_stage,
        offload_optimizer=args.offload_optimizer,
        checkpointing=args.checkpoint_activations,
        placement=args.teacher_placement,
        group=args.teacher_group_size,
        stored_pieces=args.target_store,
        updates=args.updates,
        reduce_bucket=args.reduce_bucket,
        max_live=args.max_live,
        assumptions=assumptions,
    )


def _size(text: str) -> tuple[ModelSize, int | None]:
    """Read a size: a preset, numbers, or a checkpoint with its vocabulary."""
    parts = text.split(",")
    if len(parts) == 4 and all(part.strip().isdigit() for part in parts):
        layers, width, ffn, heads = map(int, parts)
        return text_size(layers, width, ffn, heads), None
    if text in PRESETS or not (Path(text).suffix or Path(text).exists()):
        return preset(text), None
    from seqdistill.planning.checkpoints import checkpoint_size

    return checkpoint_size(text)


def _machine(args: argparse.Namespace) -> tuple[Machine, Assumptions]:
    device, assumptions = machine(args.device), Assumptions()
    if args.calibrate:
        from seqdistill.planning.calibration import calibrate

        device, assumptions = calibrate(device, assumptions)
    known = {field.name for field in fields(Assumptions)}
    for text in args.assume:
        name, _, value = text.partition("=")
        if name not in known:
            raise UsageError(f"--assume: unknown {name!r}; there are {', '.join(sorted(known))}")
        try:
            assumptions = replace(assumptions, **{name: float(value)})
        except ValueError as error:
            raise UsageError(f"--assume {text}: {error}") from error
    changes: dict[str, float] = {}
    for option, factor, names in (
        ("memory", GIB, ("memory",)),
        ("tflops", 1e12, ("flops32", "flops16")),
        ("bandwidth", 1e9, ("bandwidth",)),
        ("link", 1e9, ("link",)),
    ):
        value = getattr(args, option)
        if value is None:
            continue
        if not value > 0:
            raise UsageError(f"--{option}: expected a number above 0, got {value:g}")
        changes |= dict.fromkeys(names, value * factor)
    return replace(device, **changes), assumptions  # type: ignore[arg-type]
