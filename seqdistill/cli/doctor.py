"""``seqdistill doctor``: what is installed here, and which loss backend it would take."""

import argparse
import json
import os
import platform
import sys
from importlib import metadata
from typing import Any

import seqdistill
from seqdistill.cli.common import add_verb

_DESCRIPTION = """\
Show what seqdistill finds here: Python, the processor, torch and its devices, optional packages,
and for each backend of the fused loss whether it can be used, and why or why not. The first call
compiles the C++ kernels, which takes some seconds. The exit status is 0 unless the core itself
cannot work."""

_EXAMPLE = """\
seqdistill doctor
seqdistill doctor --json > environment.json"""

# Package → the distributions that provide it, the likelier one first.
_PACKAGES = {
    "numpy": ("numpy",),
    "sacrebleu": ("sacrebleu",),
    "fairseq": ("fairseq-fixed", "fairseq"),
    "sentencepiece": ("sentencepiece",),
    "jiwer": ("jiwer",),
    "torchaudio": ("torchaudio",),
    "soundfile": ("soundfile",),
    "deepspeed": ("deepspeed",),
    "triton": ("triton",),
    "safetensors": ("safetensors",),
}


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "doctor", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; returns the exit status."""
    report = examine()
    if args.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        print("\n".join(_text(report)))
    if report["broken"]:
        print(f"seqdistill doctor: broken: {report['broken']}", file=sys.stderr)
        return 1
    return 0


def examine() -> dict[str, Any]:
    """Return what is found, as ``--json`` prints it; ``broken`` is None or says what is."""
    report: dict[str, Any] = {
        "seqdistill": seqdistill.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "processor": _processor(),
        "packages": {name: _version(names) for name, names in _PACKAGES.items()},
        "broken": None,
    }
    try:
        import torch

        report["torch"] = _torch(torch)
        report["loss_backends"] = _backends()
        report["auto"] = _automatic(torch)
    except Exception as error:  # a broken installation may throw anything; saying so is the point
        report["broken"] = f"{type(error).__name__}: {error}"
    return report


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for line in handle:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return f"{value.strip()} ({platform.machine()})"
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return f"{metadata.version(name)}{'' if name == distributions[-1] else f' ({name})'}"
        except metadata.PackageNotFoundError:
            continue
    return None


def _torch(torch: Any) -> dict[str, Any]:
    available = torch.cuda.is_available()
    count = torch.cuda.device_count() if available else 0
    return {
        "version": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "gpu_build": _gpu_build(torch.version),
        "gpu_devices": [torch.cuda.get_device_name(i) for i in range(count)],
    }


def _gpu_build(version: Any) -> str | None:
    if version.cuda:
        return f"CUDA {version.cuda}"
    return f"ROCm {version.hip}" if version.hip else None


def _backends() -> dict[str, dict[str, Any]]:
    from seqdistill.kernels.select import BACKENDS, backend_status
    from seqdistill.kernels.triton import triton_status

    found = {}
    for name in BACKENDS:
        if name == "auto":
            continue
        # One small kernel is run: what is broken in a GPU's software shows only then.
        usable, reason = triton_status(launch=True) if name == "triton" else backend_status(name)
        found[name] = {"usable": usable, "reason": reason}
    return found


def _automatic(torch: Any) -> dict[str, dict[str, str]]:
    """Return which backend ``--loss-backend auto`` takes on each kind of device, and why."""
    from seqdistill.kernels.select import backend_status, select_backend

    chosen = {}
    for kind, preferred in (("cpu", "cpp"), ("cuda", "triton")):
        name = select_backend("auto", torch.device(kind), torch.float32).name
        reason = f"the fastest there is for {kind}"
        if name != preferred:
            reason = f"{preferred} cannot be used: {backend_status(preferred)[1]}"
        chosen[kind] = {"backend": name, "reason": reason}
    return chosen


def _text(report: dict[str, Any]) -> list[str]:
    lines = [
        ("seqdistill", report["seqdistill"]),
        ("python", report["python"]),
        ("platform", report["platform"]),
        ("processor", report["processor"]),
    ]
    if "torch" in report:
        found = report["torch"]
        omp = found["OMP_NUM_THREADS"]
        build = f"for {found['gpu_build']}" if found["gpu_build"] else "for the CPU only"
        lines += [
            ("torch", f"{found['version']}, built {build}, uses {found['instructions']}"),
            ("devices", ", ".join(["cpu", *found["gpu_devices"]])),
            (
                "threads",
                f"{found['threads']} of torch on {found['processors']} processors"
                + (f" (OMP_NUM_THREADS={omp})" if omp else ""),
            ),
        ]
    rows = _aligned(lines)
    rows += ["", "packages"]
    rows += _aligned([(n, v or "not installed") for n, v in report["packages"].items()], "  ")
    if "loss_backends" in report:
        rows += ["", "loss backends"]
        rows += _aligned(
            [
                (name, f"{'usable' if status['usable'] else 'not usable'}: {status['reason']}")
                for name, status in report["loss_backends"].items()
            ],
            "  ",
        )
    if "auto" in report:
        rows += ["", "--loss-backend auto"]
        rows += _aligned(
            [
                (f"on {kind}", f"{choice['backend']} ({choice['reason']})")
                for kind, choice in report["auto"].items()
            ],
            "  ",
        )
    return rows


def _aligned(pairs: list[tuple[str, str]], indent: str = "") -> list[str]:
    width = max(len(name) for name, _ in pairs)
    return [f"{indent}{name:<{width}}  {value}" for name, value in pairs]
