"""Teachers in every process, spread over processes, or offloaded: the same training."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.placement import check_no_placement, check_store_options, place_teachers
from fairseq_plugins.tasks.options import DistillationOptions
from fairseq_plugins.teachers import TeacherEnsemble, translation_loader
from seqdistill.errors import InputError
from tests.plugins.corpus import Corpus, logged, save_teacher, training_arguments
from tests.plugins.jobs import Outcome, run_job
from tests.plugins.speech_corpus import SpeechCorpus, speech_training_arguments
from tests.plugins.speech_corpus import save_teacher as save_speech_teacher

Job = Callable[..., list[Outcome]]

# 32 sentences in batches of 5 are 7: with 2 or 3 processes the last step of an epoch has a dummy
# batch. So has the validation: 8 sentences in batches of 3.
STEPS = ["--batch-size", 5, "--batch-size-valid", 3, "--required-batch-size-multiple", 1]
OPTIONS = [*STEPS, "--ddp-backend", "pytorch_ddp", "--max-update", 4]
PROXY = ["--criterion", "proxy_dirichlet", "--mix-weight", 0.2, "--teacher-temperature", 2]


@pytest.fixture(scope="module")
def teachers(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four teachers: no number of them fits groups of 3, three do not fit groups of 2."""
    folder = tmp_path_factory.mktemp("more")
    more = [save_teacher(corpus.data, seed, str(folder / f"teacher{seed}.pt")) for seed in (3, 4)]
    return [*corpus.teachers, *more]


@pytest.fixture
def job(corpus: Corpus, teachers: list[Path], tmp_path: Path) -> Job:
    """Train a student of the first M teachers."""

    def run(name: str, world: int, M: int, *options: object, **settings: object) -> list[Outcome]:
        paths = os.pathsep.join(map(str, teachers[:M]))
        arguments = training_arguments(
            corpus, tmp_path / name, *OPTIONS, "--ensemble-paths", paths, *options
        )
        return run_job(arguments, world, tmp_path / name, **settings)

    return run


def curves(outcomes: list[Outcome], save_dir: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return what was logged of a training, and its weights."""
    assert [outcome.code for outcome in outcomes] == [0] * len(outcomes), outcomes
    numbers = []
    for logger, names in (
        ("train_inner", ("loss", "ensemble_tu", "ensemble_epkl", "accuracy")),
        ("valid", ("valid_loss", "valid_ensemble_mi", "valid_nll_loss")),
    ):
        records = logged(outcomes[0].output, logger)
        assert records
        numbers += [record[name] for record in records for name in names]
    state = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)
    return numbers, state["model"]


def check_same(
    found: list[Outcome], expected: list[Outcome], folder: Path, name: str, other: str
) -> None:
    """Compare two trainings: what is logged to 3 decimals or 1e-3, and the weights."""
    numbers, weights = curves(found, folder / name)
    wanted, wanted_weights = curves(expected, folder / other)
    assert len(set(wanted)) > 10  # it is a curve
    assert numbers == pytest.approx(wanted, rel=1e-3, abs=1.5e-3)
    for key, weight in wanted_weights.items():
        # A key's bias has no gradient but for rounding, of which Adam makes full steps.
        if not key.endswith("k_proj.bias"):
            torch.testing.assert_close(weights[key], weight, rtol=2e-3, atol=2e-4, msg=key)


def test_shard_and_offload_follow_replicate(job: Job, teachers: list[Path], tmp_path: Path) -> None:
    """4 updates of 2 batches, some of them dummies, in chunks of 9 tokens; and validations.

    No rank opens another's checkpoint.
    """
    common = [*PROXY, "--update-freq", 2]
    expected = job("replicate", 2, 3, *common)
    others = {0: [teachers[1]], 1: [teachers[0], teachers[2]]}
    placement = ["--teacher-placement", "shard"]
    found = job("shard", 2, 3, *common, *placement, forbidden=others, chunk_tokens=9)
    check_same(found, expected, tmp_path, "shard", "replicate")
    assert "teachers 1, 3 of 3 live here; processes 0 to 1" in found[0].output
    found = job("offload", 2, 3, *common, "--teacher-placement", "offload")
    check_same(found, expected, tmp_path, "offload", "replicate")


def test_three_processes_take_the_plain_path(job: Job, tmp_path: Path) -> None:
    """Of end2, with one teacher more than processes."""
    common = ["--criterion", "end2", "--no-fused-loss"]
    expected = job("replicate", 3, 4, *common)
    placement = ["--teacher-placement", "shard", "--teacher-group-size", 3]
    found = job("shard", 3, 4, *common, *placement, chunk_tokens=9)
    check_same(found, expected, tmp_path, "shard", "replicate")


def test_the_guard_of_files_works(job: Job, teachers: list[Path]) -> None:
    """A process that holds all teachers fails where it may not open one."""
    (found,) = job("guarded", 1, 2, *PROXY, forbidden={0: [teachers[0]]})
    assert found.code == 1
    assert "must not open" in found.output


def test_speech(speech: SpeechCorpus, tmp_path: Path) -> None:
    """Teachers that read clean features, the student augmented ones."""
    third = save_speech_teacher(speech.data, 3, name=str(tmp_path / "teacher3.pt"))
    paths = f"{speech.ensemble_paths}{os.pathsep}{third}"
    common = [
        "--criterion", "proxy_dirichlet", "--ctc-weight", 0.3, "--ensemble-paths", paths,
        "--teacher-features", "clean", *OPTIONS,
    ]  # fmt: skip
    outcomes = {}
    for name in ("replicate", "shard", "offload"):
        arguments = speech_training_arguments(
            speech, tmp_path / name, *common, "--teacher-placement", name
        )
        outcomes[name] = run_job(arguments, 2, tmp_path / name)
    assert "live here" in outcomes["shard"][0].output
    for name in ("shard", "offload"):
        check_same(outcomes[name], outcomes["replicate"], tmp_path, name, "replicate")


def test_nan_in_a_member_of_another_process(job: Job, teachers: list[Path], tmp_path: Path) -> None:
    state = torch.load(teachers[1], weights_only=True)
    state["model"]["decoder.layers.0.fc1.weight"][0] = torch.nan
    torch.save(state, tmp_path / "nan.pt")
    paths = os.pathsep.join(map(str, (teachers[0], tmp_path / "nan.pt", teachers[2])))
    options = ["--teacher-placement", "shard", "--ensemble-paths", paths]
    for outcome in job("nan", 2, 0, *PROXY, *options):
        assert outcome.code == 1, outcome
        assert "error: update 0: NaN log-probabilities from" in outcome.output
        assert "nan.pt" in outcome.output


def test_a_bad_checkpoint_of_one_process_ends_all(
    job: Job, teachers: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "cut.pt"
    bad.write_bytes(teachers[1].read_bytes()[:5000])
    paths = os.pathsep.join(map(str, (teachers[0], bad, teachers[2])))
    found = job("bad", 2, 0, *PROXY, "--teacher-placement", "shard", "--ensemble-paths", paths)
    for outcome in found:
        assert outcome.code == 1, outcome
        assert str(bad) in outcome.output.splitlines()[-1]
    assert "error: rank 1: " in found[0].output


@pytest.mark.parametrize(
    ("placement", "size", "said"),
    [
        ("replicate", 2, ["--teacher-group-size 2", "--teacher-placement replicate"]),
        ("offload", 2, ["--teacher-group-size 2", "--teacher-placement offload"]),
        ("shard", 2, ["--teacher-group-size 2", "1 processes"]),
        ("shard", 4, ["--teacher-group-size 4", "3 members"]),
        ("shard", 0, ["--teacher-group-size 0", "at least 1"]),
    ],
)
def test_options_that_contradict_one_another(
    teachers: list[Path], placement: str, size: int, said: list[str]
) -> None:
    paths = os.pathsep.join(map(str, teachers[:3]))
    cfg = DistillationOptions(
        ensemble_paths=paths, teacher_placement=placement, teacher_group_size=size
    )
    with pytest.raises(InputError) as refused:
        place_teachers(cfg, pytest.fail, in_training=True)
    for part in said:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("check", "other"),
    [(check_store_options, "--target-store"), (check_no_placement, "--criterion")],
)
def test_placement_of_teachers_that_are_not_there(
    check: Callable[[DistillationOptions], None], other: str
) -> None:
    check(DistillationOptions())
    for option, cfg in (
        ("--teacher-placement shard", DistillationOptions(teacher_placement="shard")),
        ("--teacher-placement offload", DistillationOptions(teacher_placement="offload")),
        ("--teacher-group-size 2", DistillationOptions(teacher_group_size=2)),
    ):
        with pytest.raises(InputError) as refused:
            check(cfg)
        assert option in str(refused.value)
        assert other in str(refused.value)


def test_a_store_and_a_placement_end_the_program(job: Job) -> None:
    options = ["--target-store", "store", "--teacher-placement", "offload"]
    (outcome,) = job("refused", 1, 3, *PROXY, *options)
    assert outcome.code == 1, outcome
    message = outcome.output.splitlines()[-1]
    assert message.startswith("seqdistill-fairseq-train: error: --target-store loads no teacher")


def test_a_checkpoint_is_validated_by_one_process(corpus: Corpus, teachers: list[Path]) -> None:
    """The options of its training come with it, its processes do not."""
    source, target = (
        Dictionary.load(str(corpus.data / f"dict.{side}.txt")) for side in ("en", "de")
    )
    cfg = DistillationOptions(
        ensemble_paths=corpus.ensemble_paths, teacher_placement="shard", teacher_group_size=2
    )
    ensemble = place_teachers(cfg, translation_loader(source, target), in_training=False)
    assert isinstance(ensemble, TeacherEnsemble)
    assert len(ensemble.models) == 2
