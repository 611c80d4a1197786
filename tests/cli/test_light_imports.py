"""fairseq without what no program of this package uses, and with it when it is wanted after all."""

import subprocess
import sys

import pytest

pytest.importorskip("fairseq", reason="needs the extra seqdistill[fairseq]")

PROGRAM = """
import sys
from seqdistill.cli.with_fairseq import light_imports
with light_imports():
    import fairseq_cli.generate
assert not {"sklearn", "scipy", "deepspeed"} & set(sys.modules), "imported all the same"
from fairseq.criterions.sentence_prediction import f1_score, pearsonr
from fairseq.tasks.audio_classification import sklearn_metrics
assert abs(f1_score([1, 0, 1], [1, 1, 1]) - 0.8) < 1e-12
assert abs(pearsonr([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])[0] - 1.0) < 1e-12
rates = sklearn_metrics.roc_curve([0, 1], [0.2, 0.9])
assert len(rates) == 3
import scipy.stats, sklearn.metrics
assert scipy.stats.pearsonr is sys.modules["scipy.stats"].pearsonr
"""


def test_scores_of_classification_are_imported_when_they_are_computed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
