"""DeepSpeed's engine under fairseq-train: the curves of stock fairseq-train, whatever the stage.

Two processes with batches of n sentences are compared with stock fairseq-train in one process
that adds up two batches (``--update-freq 2``). Losses are logged to 3 or 4 decimals. Float32 sums
in another order, so losses and gradient norms agree to 1e-3 relative (measured: 1e-5).
"""

import json
from pathlib import Path

import pytest

from tests.plugins.corpus import Corpus, logged, training_arguments
from tests.plugins.scale_runs import run_together

TOLERANCE = 1e-3
PROXY = ["--criterion", "proxy_dirichlet", "--mix-weight", "0.2", "--share-all-embeddings"]
UPDATES = ["--max-update", "20", "--no-save"]
#: 32 sentences are 7 batches: in each epoch one process is given a filler.
UNEVEN = ["--batch-size", "5", "--required-batch-size-multiple", "1"]
STAGES = (0, 1, 2, 3)


def configuration(folder: Path, name: str, values: dict[str, object]) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(values))
    return str(path)


def stage_configuration(folder: Path, stage: int, **others: object) -> str:
    zero: dict[str, object] = {"stage": stage}
    if stage == 3:
        # Else everything of a tiny model is kept whole on all processes.
        zero["stage3_param_persistence_threshold"] = 0
    return configuration(folder, f"stage{stage}", {"zero_optimization": zero, **others})


def training(corpus: Corpus, *options: object) -> list[str]:
    arguments = training_arguments(corpus, corpus.data.parent / "unused", *options)
    return [*arguments, *UPDATES]


def translation(corpus: Corpus, *options: object) -> list[str]:
    """fairseq's own task and criterion, nothing of this package but the engine."""
    arguments = training(corpus, "--criterion", "label_smoothed_cross_entropy", *options)
    for option, values in (("--user-dir", 1), ("--ensemble-paths", 1), ("--task", 1)):
        where = arguments.index(option)
        del arguments[where : where + 1 + values]
    return [*arguments, "--task", "translation", "--label-smoothing", "0.1", *UNEVEN]


def curve(log: str, *names: str) -> list[tuple[float, ...]]:
    records = logged(log, "train_inner")
    return [tuple(record[name] for name in names) for record in records]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("curves")


@pytest.fixture(scope="module")
def expected(corpus: Corpus, folder: Path) -> dict[str, str]:
    """Logs of stock fairseq-train, one process."""
    runs = {
        "fused": training(corpus, *PROXY, "--update-freq", 2),
        "plain": training(corpus, *PROXY, "--no-fused-loss", "--update-freq", 2),
        "translation": translation(corpus, "--update-freq", 2, "--clip-norm", 0.5),
        "translation4": translation(corpus, "--update-freq", 4),
        "sentences": translation(corpus, "--update-freq", 2, "--sentence-avg"),
    }
    return run_together(folder / "stock", runs)


@pytest.fixture(scope="module")
def measured(corpus: Corpus, folder: Path) -> dict[str, str]:
    """Logs of the engine in two processes."""
    runs = {}
    for stage in STAGES:
        deepspeed = ["--deepspeed", stage_configuration(folder, stage)]
        runs[f"fused{stage}"] = training(corpus, *PROXY, *deepspeed)
        runs[f"plain{stage}"] = training(corpus, *PROXY, "--no-fused-loss", *deepspeed)
        runs[f"translation{stage}"] = translation(corpus, "--clip-norm", 0.5, *deepspeed)
    accumulate = ["--update-freq", 2, "--deepspeed"]
    for stage in (1, 2, 3):
        path = stage_configuration(folder, stage)
        runs[f"accumulated{stage}"] = translation(corpus, *accumulate, path)
    runs["accumulated2"] += ["--eval-bleu", "--eval-bleu-args", '{"beam": 2}']
    runs["checkpointed"] = training(corpus, *PROXY, "--checkpoint-activations", *deepspeed)
    runs["sentences"] = translation(corpus, "--sentence-avg", *deepspeed)
    return run_together(folder / "engine", runs, processes=2)


@pytest.mark.parametrize("kind", ["fused", "plain", "translation"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_follows_the_stock_curve(
    expected: dict[str, str], measured: dict[str, str], kind: str, stage: int
) -> None:
    reference = curve(expected[kind], "loss", "gnorm", "lr", "num_updates", "wpb", "bsz")
    assert len(reference) == 20
    assert abs(reference[-1][0] - reference[0][0]) > 0.05 * reference[0][0], "it must move"
    got = curve(measured[f"{kind}{stage}"], "loss", "gnorm", "lr", "num_updates", "wpb", "bsz")
    for ours, stock in zip(got, reference, strict=True):
        assert ours == pytest.approx(stock, rel=TOLERANCE, abs=2e-3)


@pytest.mark.parametrize("kind", ["fused", "plain", "translation"])
@pytest.mark.parametrize("stage", STAGES)
def test_validation_sees_all_of_uneven_batches_once(
    expected: dict[str, str], measured: dict[str, str], kind: str, stage: int
) -> None:
    reference = logged(expected[kind], "valid")[-1]
    got = logged(measured[f"{kind}{stage}"], "valid")[-1]
    for name in ("valid_loss", "valid_nll_loss", "valid_num_updates"):
        assert got[name] == pytest.approx(reference[name], rel=TOLERANCE), name


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_accumulated_batches_and_a_last_update_of_fewer(
    expected: dict[str, str], measured: dict[str, str], stage: int
) -> None:
    """2 × 2 batches are 4. Each epoch ends with an update of 3, one process given a filler.

    In that update fairseq's log forgets both batches of the process whose last one is a filler;
    its gradient must not.
    """
    reference = curve(expected["translation4"], "gnorm", "lr", "loss", "wpb")
    got = curve(measured[f"accumulated{stage}"], "gnorm", "lr", "loss", "wpb")
    assert len(got) == len(reference) == 20
    for update, (ours, stock) in enumerate(zip(got, reference, strict=True)):
        compared = slice(2 if update % 2 else 4)
        assert ours[compared] == pytest.approx(stock[compared], rel=TOLERANCE, abs=2e-3)
    assert got[1][3] < reference[1][3], "the log forgets, as fairseq's does"


def test_validation_decodes_where_parameters_are_whole(measured: dict[str, str]) -> None:
    bleus = [record["valid_bleu"] for record in logged(measured["accumulated2"], "valid")]
    assert len(bleus) >= 10
    assert all(0 <= bleu <= 100 for bleu in bleus)


@pytest.mark.parametrize(("name", "kind"), [("checkpointed", "fused"), ("sentences", "sentences")])
def test_checkpointed_activations_and_sentence_averages(
    expected: dict[str, str], measured: dict[str, str], name: str, kind: str
) -> None:
    """Both with ZeRO 3."""
    reference = curve(expected[kind], "loss", "gnorm")
    got = curve(measured[name], "loss", "gnorm")
    assert len(got) == 20
    for ours, stock in zip(got, reference, strict=True):
        assert ours == pytest.approx(stock, rel=TOLERANCE, abs=2e-3)
