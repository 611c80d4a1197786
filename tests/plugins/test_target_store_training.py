"""Trainings from a target store: the online curve without a teacher, and what is refused."""

import shutil
from pathlib import Path

import pytest

from tests.plugins.corpus import Corpus, logged, run, train

EVERYTHING = ["--store-dtype", "float32", "--for-end2", "--exact-precision"]


def cache(corpus: Corpus, folder: Path, *options: object) -> str:
    result = run(
        "seqdistill", "cache-targets", corpus.data, "--ensemble-paths", corpus.ensemble_paths,
        "--output", folder, *options,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return str(folder)


@pytest.fixture(scope="module")
def store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Both subsets, nothing left out."""
    folder = tmp_path_factory.mktemp("stores")
    names = ("train", "valid")
    options = [*EVERYTHING, "--top-k", vocabulary_size(corpus)]
    return ":".join(cache(corpus, folder / name, "--subset", name, *options) for name in names)


def vocabulary_size(corpus: Corpus) -> int:
    lines = (corpus.data / "dict.de.txt").read_text(encoding="utf-8").splitlines()
    return len(lines) + 4


@pytest.mark.parametrize(
    "options",
    [
        ["--criterion", "proxy_dirichlet", "--mix-weight", "0.2"],
        ["--criterion", "proxy_dirichlet", "--concentration", "exact", "--no-fused-loss"],
        ["--criterion", "end2"],
        ["--criterion", "mean_kl", "--max-target-positions", "8",
         "--skip-invalid-size-inputs-valid-test"],
    ],
    ids=["proxy", "exact-plain", "end2", "mean_kl-filtered"],
)  # fmt: skip
def test_with_every_piece_kept_it_is_the_online_training(
    corpus: Corpus, tmp_path: Path, store: str, options: list[str]
) -> None:
    """Three epochs of shuffled batches, validation too; no teacher is named, so none is loaded."""
    common = [*options, "--max-update", 18]
    online = train(corpus, tmp_path / "online", *common)
    assert online.returncode == 0, online.stderr
    stored = train(
        corpus, tmp_path / "stored", *common, "--target-store", store, "--ensemble-paths", ""
    )
    assert stored.returncode == 0, stored.stderr
    for logger in ("train_inner", "valid"):
        expected = logged(online.stdout + online.stderr, logger)
        found = logged(stored.stdout + stored.stderr, logger)
        assert len(found) == len(expected) > 2
        for name in expected[0].keys() - {"wps", "ups", "wall", "train_wall", "gnorm"}:
            if name.endswith(("wps", "ups", "wall")):
                continue
            assert [r[name] for r in found] == pytest.approx(
                [r[name] for r in expected], rel=2e-3, abs=2e-3, nan_ok=True
            ), name


def test_a_validation_without_store_has_the_cross_entropy(
    corpus: Corpus, tmp_path: Path, store: str
) -> None:
    result = train(
        corpus, tmp_path, "--criterion", "proxy_dirichlet", "--max-update", 6,
        "--target-store", store.split(":")[0], "--ensemble-paths", "",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    output = result.stdout + result.stderr
    assert "no target store is of the subset valid" in output
    last = logged(output, "valid")[-1]
    assert last["valid_loss"] == pytest.approx(last["valid_nll_loss"] * 0.693147, rel=1e-3)
    assert "valid_ensemble_tu" not in last
    assert "train_ensemble_tu" in logged(output, "train")[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--criterion", "end2"], "make it again with --for-end2"),
        (["--criterion", "proxy_dirichlet", "--concentration", "exact"], "--exact-precision"),
        (["--criterion", "mean_kl", "--teacher-temperature", "2"], "read at temperature 1.0"),
        (
            ["--criterion", "end2", "--teacher-temperature", "2", "--temperature-anneal-end", "5"],
            "leave the annealing away",
        ),
        (["--criterion", "proxy_dirichlet", "--train-subset", "valid"], "no store is of the"),
    ],
)
def test_a_store_that_does_not_fit_is_refused(
    corpus: Corpus, tmp_path: Path, plain_store: str, options: list[str], message: str
) -> None:
    result = train(
        corpus, tmp_path, *options, "--max-update", 2, "--target-store", plain_store,
        "--ensemble-paths", "",
    )  # fmt: skip
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tmp_path / "checkpoint_last.pt").exists()


@pytest.fixture(scope="module")
def plain_store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> str:
    return cache(corpus, tmp_path_factory.mktemp("plain") / "store", "--top-k", 4)


def test_a_store_of_other_data_is_refused(corpus: Corpus, tmp_path: Path, plain_store: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus.data, data)
    for path in corpus.data.glob("test.*"):
        shutil.copy(path, data / path.name.replace("test.", "train."))
    other = Corpus(data, corpus.teachers)
    result = train(
        other, tmp_path / "student", "--criterion", "proxy_dirichlet", "--max-update", 2,
        "--target-store", plain_store, "--ensemble-paths", "",
    )  # fmt: skip
    assert result.returncode == 1
    assert "is of other data" in result.stderr
