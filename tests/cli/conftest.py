from pathlib import Path

import pytest

from seqdistill.hypotheses import write_hypotheses
from tests.reference.hypothesis_sets import make_hypotheses


@pytest.fixture(scope="session")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``ensemble`` and ``student``: in_domain, forced, and the sets news and permuted."""
    root = tmp_path_factory.mktemp("systems")
    for name, kind in (("ensemble", "ensemble"), ("student", "dirichlet")):
        files = {
            "in_domain": make_hypotheses(60, kind=kind),
            "forced": make_hypotheses(60, kind=kind, forced=True),
            "news": make_hypotheses(50, kind=kind, difficulty=0.5, seed=1),
            "permuted": make_hypotheses(50, kind=kind, difficulty=1.2, seed=2, references=False),
        }
        for stem, hypotheses in files.items():
            write_hypotheses(root / name / f"{stem}.jsonl", hypotheses)
    return root
