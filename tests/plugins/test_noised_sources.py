"""Consistent teaching of text: noise on sources, read by teachers and student alike or not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fairseq.data import LanguagePairDataset, ListDataset

from fairseq_plugins.noised_sources import NoisedSources
from seqdistill.teachers.source_noise import SourceNoise
from tests.plugins.corpus import Corpus, logged, run, training_arguments
from tests.plugins.jobs import Outcome, run_job
from tests.plugins.tiny_models import tiny_dictionary


def pairs(sources: list[list[int]]) -> LanguagePairDataset:
    """Pairs whose targets are their sources."""
    rows = [torch.tensor(source) for source in sources]
    sizes = [len(source) for source in sources]
    dictionary = tiny_dictionary()
    sides = [ListDataset(rows, sizes) for _ in range(2)]
    return LanguagePairDataset(sides[0], sizes, dictionary, sides[1], sizes, dictionary)


def noised(share: float | None) -> tuple[NoisedSources, list[list[int]]]:
    """A noised set whose teachers read a share of the noise, None for all of it."""
    sources = [[4 + (7 * n + k) % 18 for k in range(3 + n % 5)] + [2] for n in range(12)]
    noise = SourceNoise(0.5, 0.2, 3, range(4, 24), [1] * 20, fixed=(0, 1, 2))
    theirs = None if share is None else replace(noise, drop=share * 0.5, replace=share * 0.2)
    return NoisedSources(pairs(sources), noise, theirs), sources


def test_teachers_get_the_clean_rows_in_the_order_of_the_noised_ones() -> None:
    dataset, sources = noised(0.0)
    batch = dataset.collater([dataset[n] for n in range(12)])
    student, teachers = batch["net_input"], batch["teacher_net_input"]
    assert student["prev_output_tokens"] is teachers["prev_output_tokens"]
    changed = 0
    for row, number in enumerate(batch["id"].tolist()):
        clean = teachers["src_tokens"][row]
        assert clean[clean != 1].tolist() == sources[number]
        assert int(teachers["src_lengths"][row]) == len(sources[number])
        mine = student["src_tokens"][row]
        expected = dataset.noise(torch.tensor(sources[number]), 1, number)
        assert mine[mine != 1].tolist() == expected.tolist()
        changed += expected.tolist() != sources[number]
    assert changed > 6
    # Sorted by noised lengths, which is not the order of the clean ones.
    assert student["src_lengths"].tolist() == sorted(student["src_lengths"].tolist(), reverse=True)
    assert teachers["src_lengths"].tolist() != sorted(teachers["src_lengths"].tolist())[::-1]


def test_weak_noise_spares_pieces_and_touches_no_other() -> None:
    dataset, sources = noised(0.4)
    batch = dataset.collater([dataset[n] for n in range(12)])
    differ = 0
    for row, number in enumerate(batch["id"].tolist()):
        weak, strong = (
            [piece for piece in batch[name]["src_tokens"][row].tolist() if piece != 1]
            for name in ("teacher_net_input", "net_input")
        )
        assert len(strong) <= len(weak) <= len(sources[number])
        # What the strong noise leaves as it was, the weak noise does, too.
        kept = [piece for piece in strong if piece in sources[number]]
        assert set(kept) <= set(weak)
        differ += weak != strong and weak != sources[number]
    assert differ > 1


def test_epochs_differ_and_come_back() -> None:
    dataset, _ = noised(None)
    first = [dataset[n]["source"].tolist() for n in range(12)]
    dataset.set_epoch(2)
    second = [dataset[n]["source"].tolist() for n in range(12)]
    dataset.set_epoch(1)
    assert first == [dataset[n]["source"].tolist() for n in range(12)] != second
    assert "teacher_net_input" not in dataset.collater([dataset[0], dataset[1]])


OPTIONS = ("--criterion", "proxy_dirichlet", "--student-init", "1")


def training(corpus: Corpus, folder: Path, *options: object) -> Outcome:
    given = [*OPTIONS, "--disable-validation", *options]
    (outcome,) = run_job(training_arguments(corpus, folder, *given), 1, folder)
    return outcome


def losses(outcome: Outcome) -> list[float]:
    assert outcome.code == 0, outcome.output
    return [record["loss"] for record in logged(outcome.output, "train_inner")]


NOISE = ("--source-dropout", "0.3", "--source-replacement", "0.1")


def test_training_goes_on_with_the_noise_of_its_epoch(corpus: Corpus, tmp_path: Path) -> None:
    whole = losses(training(corpus, tmp_path / "whole", *NOISE, "--max-update", 12))
    plain = losses(training(corpus, tmp_path / "plain", "--max-update", 4))
    assert whole[:4] != plain
    # Stopped within the second epoch, gone on in another process.
    losses(training(corpus, tmp_path / "parts", *NOISE, "--max-update", 10))
    rest = losses(training(corpus, tmp_path / "parts", *NOISE, "--max-update", 12))
    assert rest == pytest.approx(whole[10:], rel=1e-3)
    clean = losses(
        training(corpus, tmp_path / "clean", *NOISE, "--teacher-source", "clean", "--max-update", 4)
    )
    # The same student and batches, other targets.
    assert clean != pytest.approx(whole[:4], rel=1e-3)


def test_a_store_goes_with_clean_teachers_only(corpus: Corpus, tmp_path: Path) -> None:
    store = tmp_path / "store"
    made = run(
        "seqdistill", "cache-targets", corpus.data, "--ensemble-paths", corpus.ensemble_paths,
        "--output", store, "--subset", "train",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    given = ["--target-store", store, "--ensemble-paths", "", "--student-init", ""]
    given += ["--source-dropout", "0.2", "--max-update", 2]
    refused = training(corpus, tmp_path / "augmented", *given)
    assert refused.code != 0
    assert "are of the sources as they are; train with --ensemble-paths" in refused.output
    clean = training(corpus, tmp_path / "clean", *given, "--teacher-source", "clean")
    assert len(losses(clean)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source-dropout", "1.5"], "chance to drop a piece"),
        (["--teacher-source", "clean"], "is of noised sources"),
        (
            ["--source-dropout", "0.1", "--teacher-source", "weak", "--weak-noise", "1"],
            "--weak-noise: expected a share",
        ),
    ],
)
def test_bad_options(corpus: Corpus, tmp_path: Path, options: list[str], message: str) -> None:
    outcome = training(corpus, tmp_path, "--max-update", 1, *options)
    assert outcome.code != 0
    assert message in outcome.output
