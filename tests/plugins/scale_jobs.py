"""Many trainings on DeepSpeed's engine from one process: importing everything is what takes long.

``python -m tests.plugins.scale_jobs JOBS.json RESULTS.json`` imports, and then forks the ranks of
each job, which run ``seqdistill-fairseq-train`` in themselves, joined by gloo. A job may have a
rank killed (SIGKILL, as by ``kill -9``) when it touches a file of its save folder for the n-th
time: by the interpreter's own audit events, so that nothing of the program is replaced.
"""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

#: A training of a few updates takes seconds; one that hangs fails soon.
LIMIT = 90.0


def run_jobs(folder: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run jobs in one process; return what each wrote, with the exit codes of its ranks.

    A job has ``arguments``, ``ranks``, and maybe ``kill``: ``{"rank": 1, "event": 7}``, and
    ``copy``: ``[FROM, TO]``, a folder to copy before, and ``damage``: ``[[FILE, BYTES], …]``, files
    to cut to so many bytes, or to remove.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.scale_jobs", "jobs.json", "results.json"],
        cwd=folder,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return results


class Records(logging.Handler):
    """Keeps what fairseq logs in JSON, and its other lines."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[dict[str, Any]]] = {}
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.name in ("train_inner", "train", "valid") and text.startswith("{"):
            self.values.setdefault(record.name, []).append(json.loads(text))
        else:
            self.lines.append(text)


def main() -> None:
    """Run all jobs of a file."""
    jobs = json.loads(Path(sys.argv[1]).read_text())
    import torch._dynamo  # noqa: F401  (an optimizer imports it when it is built)
    from fairseq_cli import train  # noqa: F401

    import fairseq_plugins  # noqa: F401
    from fairseq_plugins.scale import launch, trainer  # noqa: F401

    results = []
    for number, job in enumerate(jobs):
        if "copy" in job:
            shutil.copytree(*job["copy"])
        for path, size in job.get("damage", []):
            os.truncate(path, size) if size else os.remove(path)
        ranks = job.get("ranks", 1)
        port = _free_port()
        children = []
        for rank in range(ranks):
            child = os.fork()
            if not child:
                _be_a_rank(job, rank, ranks, port, Path(f"{number}.{rank}"))
            children.append(child)
        codes = _wait(children)
        results.append({"codes": codes, "ranks": [_read(number, rank) for rank in range(ranks)]})
    Path(sys.argv[2]).write_text(json.dumps(results))


def _be_a_rank(job: dict[str, Any], rank: int, ranks: int, port: int, name: Path) -> None:
    output = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if ranks > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    from fairseq_cli import train

    from fairseq_plugins.scale import launch
    from seqdistill.errors import InputError

    events: list[str] = []
    arguments = job["arguments"]
    save_dir = arguments[arguments.index("--save-dir") + 1]
    kill = job.get("kill", {})
    _watch_files(save_dir, events, kill.get("event") if kill.get("rank") == rank else None)
    records = Records()
    logging.getLogger().addHandler(records)
    sys.argv[1:] = arguments
    error, code = None, 0
    try:
        launch.run() if "--deepspeed" in arguments else train.cli_main()
    except InputError as refused:
        error, code = str(refused), 3
    except BaseException:
        traceback.print_exc()
        code = 1
    whole = {"values": records.values, "lines": records.lines, "error": error, "events": events}
    Path(f"{name}.json").write_text(json.dumps(whole))
    os._exit(code)


def _watch_files(save_dir: str, events: list[str], fatal: int | None) -> None:
    """Note what is opened, renamed, copied and removed in a folder; end at the n-th event."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree"):
            return
        path = str(arguments[0])
        if not path.startswith(save_dir):
            return
        if event == "open" and not int(arguments[2]) & (os.O_WRONLY | os.O_RDWR):
            return
        if len(events) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        events.append(f"{event} {path.removeprefix(save_dir)}")

    sys.addaudithook(hook)


def _wait(children: list[int]) -> list[int]:
    end = time.monotonic() + LIMIT
    codes: dict[int, int] = {}
    while len(codes) < len(children) and time.monotonic() < end:
        for child in children:
            if child not in codes:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for child in children:
        if child not in codes:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            codes[child] = 124
    return [codes[child] for child in children]


def _read(number: int, rank: int) -> dict[str, Any]:
    path = Path(f"{number}.{rank}.json")
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found["output"] = Path(f"{number}.{rank}.log").read_text()
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
