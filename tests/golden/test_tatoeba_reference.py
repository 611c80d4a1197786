"""A real ensemble on real text agrees with an independent float64 implementation.

The reference values are those of the README beside the five Tatoeba teachers: the first 300 lines
of the test set and the first 250 of its German side read as if it were English; beam 5, at most
1.2 · source + 10 pieces.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from fairseq_plugins.generation.translator import Translator
from seqdistill.assessment.detection import auroc
from seqdistill.hypotheses import Hypothesis

DATA = Path(os.environ.get("SEQDISTILL_DATA_ROOT") or "../shared/data").resolve()
ENSEMBLE = DATA / "ensembles" / "tatoeba_ende"
TEXT = DATA / "mt" / "tatoeba_ende"

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(
        not ENSEMBLE.is_dir(), reason="no teachers: set SEQDISTILL_DATA_ROOT to the data folder"
    ),
]

#: AUROC of the German side against the English one, 1-best, averages along the hypothesis.
GERMAN_AUROC = {
    "total_uncertainty": 0.933,
    "data_uncertainty": 0.929,
    "mutual_information": 0.914,
    "epkl": 0.895,
    "reverse_mutual_information": 0.879,
    "joint_total_uncertainty_pe": 0.946,
    "joint_total_uncertainty_ep": 0.940,
    "joint_reverse_mutual_information_pe": 0.871,
    "joint_reverse_mutual_information_ep": 0.752,
}


@pytest.fixture(scope="module")
def ensemble() -> Translator:
    return Translator(
        [str(path) for path in sorted(ENSEMBLE.glob("teacher?.pt"))],
        ENSEMBLE, "en", "de", sentencepiece_model=ENSEMBLE / "spm.model",
        beam=5, max_len_a=1.2, max_len_b=10, use_cpu=True,
    )  # fmt: skip


def lines(language: str, count: int) -> list[str]:
    return (TEXT / f"test.{language}").read_text(encoding="utf-8").splitlines()[:count]


def translate(ensemble: Translator, sources: list[str]) -> list[Hypothesis]:
    """Translate in batches of like lengths: the length limit is that of a batch's longest."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found: dict[int, Hypothesis] = {}
    for start in range(0, len(order), 25):
        batch = order[start : start + 25]
        hypotheses = ensemble.translate([sources[i] for i in batch])
        found |= dict(zip(batch, hypotheses, strict=True))
    return [found[i] for i in range(len(sources))]


def test_quality_uncertainty_and_detection(ensemble: Translator) -> None:
    inside = translate(ensemble, lines("en", 300))
    outside = translate(ensemble, lines("de", 250))

    texts, references = [h.text for h in inside], [lines("de", 300)]
    assert sacrebleu.corpus_bleu(texts, references).score == pytest.approx(19.8, abs=0.1)
    assert sacrebleu.corpus_chrf(texts, references).score == pytest.approx(38.9, abs=0.1)

    def scores(hypotheses: list[Hypothesis], measure: str) -> np.ndarray:
        return np.array([h.uncertainty[measure] for h in hypotheses])

    assert scores(inside, "total_uncertainty").mean() == pytest.approx(2.3995, abs=2e-3)
    assert scores(inside, "reverse_mutual_information").mean() == pytest.approx(0.3336, abs=5e-4)
    assert scores(inside, "epkl").mean() == pytest.approx(0.5588, abs=1e-3)
    for measure, expected in GERMAN_AUROC.items():
        value = auroc(scores(inside, measure), scores(outside, measure))
        assert value == pytest.approx(expected, abs=0.005), measure
