"""Several trainings on DeepSpeed's engine in one launch: starting the processes is what takes long.

``torchrun … --no-python python -m tests.plugins.scale_jobs JOBS.json RESULTS.json`` runs
``seqdistill-fairseq-train`` in its processes once for each list of arguments in JOBS.json and
writes what fairseq logged, or the error.
"""

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any


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
    jobs = json.loads(Path(sys.argv[1]).read_text())
    rank = int(os.environ.get("RANK", "0"))
    from fairseq.logging import progress_bar  # noqa: F401  (sets up logging)

    import fairseq_plugins  # noqa: F401
    from fairseq_plugins.scale import launch, saving
    from seqdistill.errors import InputError

    results = []
    for job in jobs:
        records = Records()
        logging.getLogger().addHandler(records)
        for source, target in job.get("copies", []):
            if rank == 0:
                shutil.copytree(source, target, dirs_exist_ok=True)
        sys.argv[1:] = job["arguments"]
        error = None
        try:
            launch.run()
        except InputError as refused:
            error = str(refused)
        finally:
            logging.getLogger().removeHandler(records)
            # What fairseq keeps of a training beyond its end.
            vars(saving.save_checkpoint).pop("best", None)
        results.append({"values": records.values, "lines": records.lines, "error": error})
        if rank == 0:
            Path(sys.argv[0] if False else RESULTS).write_text(json.dumps(results))


RESULTS = sys.argv[2] if len(sys.argv) > 2 else ""

if __name__ == "__main__":
    main()
