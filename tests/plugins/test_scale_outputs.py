"""Students with more outputs on DeepSpeed's engine: the curves of stock fairseq-train."""

import pytest

from tests.plugins.corpus import Corpus, logged
from tests.plugins.scale_runs import run_together
from tests.plugins.test_scale_curves import TOLERANCE, curve, stage_configuration, training

STUDENTS = {
    "hydra": ["--criterion", "hydra", "--hydra-rank", "4", "--mix-weight", "0.2"],
    "expectations": ["--criterion", "expectations", "--expectations-rank", "4"],
}
SHARED = ["--share-all-embeddings", "--max-update", "8"]
STAGES = (2, 3)


@pytest.fixture(scope="module")
def logs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("outputs")
    stock, engine = {}, {}
    for name, options in STUDENTS.items():
        given = training(corpus, *options, *SHARED)
        stock[name] = [*given, "--update-freq", "2"]
        for stage in STAGES:
            engine[f"{name}{stage}"] = [*given, "--deepspeed", stage_configuration(folder, stage)]
    found = run_together(folder / "stock", stock)
    return found | run_together(folder / "engine", engine, processes=2)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", STUDENTS)
def test_every_stage_follows_the_stock_curve(logs: dict[str, str], name: str, stage: int) -> None:
    reference = curve(logs[name], "loss", "gnorm", "nll_loss")
    got = curve(logs[f"{name}{stage}"], "loss", "gnorm", "nll_loss")
    assert len(got) == len(reference) > 5
    assert abs(reference[-1][0] - reference[0][0]) > 0.02 * reference[0][0], "it must move"
    for ours, stock in zip(got, reference, strict=True):
        assert ours == pytest.approx(stock, rel=TOLERANCE, abs=2e-3)
    expected, found = (logged(logs[key], "valid")[-1] for key in (name, f"{name}{stage}"))
    for measure in ("valid_loss", "valid_nll_loss"):
        assert found[measure] == pytest.approx(expected[measure], rel=5e-3, abs=2e-2), measure
