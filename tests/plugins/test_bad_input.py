"""What a user gets wrong is said in one line, with exit code 1, before anything is lost."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.teachers import TeacherEnsemble, find_members, translation_loader
from seqdistill.errors import InputError
from tests.plugins.corpus import Corpus, logged, run, save_teacher, train, training_arguments


def train_with(corpus: Corpus, save_dir: Path, *options: object) -> tuple[int, str]:
    """Run the console script; return the exit code and what it printed as an error."""
    result = run(
        "seqdistill-fairseq-train",
        *training_arguments(corpus, save_dir, "--max-update", 1, *options),
    )
    errors = [line for line in result.stderr.splitlines() if ": error: " in line]
    return result.returncode, errors[-1] if errors else result.stderr


def dictionary(corpus: Corpus) -> Dictionary:
    return Dictionary.load(str(corpus.data / "dict.en.txt"))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (None, "--ensemble-paths is empty"),
        ("", "--ensemble-paths is empty"),
        ("{folder}/teacher1.pt", "at least 2"),
        ("{folder}/nothing*.pt", "nothing matches"),
    ],
    ids=["none", "empty", "one member", "glob without files"],
)
def test_ensemble_paths(corpus: Corpus, paths: str | None, message: str) -> None:
    given = paths.format(folder=corpus.data) if paths else paths
    with pytest.raises(InputError, match=message):
        find_members(given)


def test_a_glob_and_a_list_find_the_same_members(corpus: Corpus) -> None:
    assert find_members(f"{corpus.data}/teacher[12].pt") == [str(p) for p in corpus.teachers]
    assert find_members(corpus.ensemble_paths) == [str(p) for p in corpus.teachers]


def test_missing_truncated_and_foreign_checkpoints(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    whole = corpus.teachers[0].read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.pt: truncated"):
        load_checkpoint(tmp_path / "cut.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(InputError, match=r"text\.pt: "):
        load_checkpoint(tmp_path / "text.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: "):
        load_checkpoint(tmp_path / "other.pt")


class _Forbidden:
    """A pickle that would run a command; safe loading must not."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch $SEQDISTILL_TEST_CANARY",)


def test_a_forbidden_global_is_named_and_not_run(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQDISTILL_TEST_CANARY", str(tmp_path / "ran"))
    state = torch.load(corpus.teachers[0], weights_only=True)
    torch.save(state | {"extra": _Forbidden()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt: holds the global \w+\.system"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_teachers_with_another_vocabulary_size(corpus: Corpus, tmp_path: Path) -> None:
    data = tmp_path / "other"
    shutil.copytree(corpus.data, data)
    for language in ("en", "de"):
        with open(data / f"dict.{language}.txt", "a") as handle:
            handle.write("extra 1\n" * 1 + "".join(f"more{i} 1\n" for i in range(7)))
    other = save_teacher(data, 4)
    with pytest.raises(InputError, match=r"vocabulary entries.*share one vocabulary"):
        TeacherEnsemble([str(other)], translation_loader(dictionary(corpus), dictionary(corpus)))


def test_teachers_with_another_dictionary_of_the_same_size(corpus: Corpus, tmp_path: Path) -> None:
    data = tmp_path / "renamed"
    shutil.copytree(corpus.data, data)
    for language in ("en", "de"):
        path = data / f"dict.{language}.txt"
        lines = path.read_text().splitlines()
        lines[3] = "renamed 1"
        path.write_text("\n".join(lines) + "\n")
    other = save_teacher(data, 5)
    # The dictionary lies beside the checkpoint; its language is in the checkpoint's settings.
    state = torch.load(other, weights_only=True)
    state["args"].source_lang, state["args"].target_lang = "en", "de"
    torch.save(state, other)
    with pytest.raises(InputError, match=r"differs from the data's at entry 7: 'renamed'"):
        TeacherEnsemble([str(other)], translation_loader(dictionary(corpus), dictionary(corpus)))


def test_nan_names_the_update_and_the_member(corpus: Corpus, tmp_path: Path) -> None:
    state = torch.load(corpus.teachers[1], weights_only=True)
    state["model"]["decoder.layers.0.fc1.bias"] += float("nan")
    torch.save(state, tmp_path / "nan.pt")
    code, error = train_with(
        corpus, tmp_path / "save", "--criterion", "proxy_dirichlet",
        "--ensemble-paths", f"{corpus.teachers[0]}:{tmp_path / 'nan.pt'}",
    )  # fmt: skip
    assert code == 1
    assert "update 0" in error
    assert "NaN" in error
    assert "nan.pt" in error


def test_the_command_line_says_it_in_one_line(corpus: Corpus, tmp_path: Path) -> None:
    code, error = train_with(
        corpus, tmp_path, "--criterion", "proxy_dirichlet", "--ensemble-paths", corpus.teachers[0]
    )
    assert code == 1
    assert error.startswith("seqdistill-fairseq-train: error: ")
    assert "at least 2" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--criterion", "proxy_dirichlet", "--offset", "0.5"], "offset of 1"),
        (["--criterion", "end2", "--mix-weight", "1.5"], "--mix-weight"),
        (["--criterion", "mean_kl", "--predictive", "mean"], "Dirichlet student"),
        (["--criterion", "mean_kl", "--student-init", "3"], "member from 1 to 2"),
        (
            ["--criterion", "mean_kl", "--student-init", "1", "--encoder-layers", "2"],
            "do not fit the student's architecture",
        ),
        (
            ["--criterion", "proxy_dirichlet", "--uncertainty-measures", "epkl,surprise"],
            "surprise",
        ),
    ],
    ids=["offset", "mix weight", "mean of a softmax", "member", "architecture", "measure"],
)
def test_options_that_cannot_be(
    corpus: Corpus, tmp_path: Path, options: list[str], message: str
) -> None:
    code, error = train_with(corpus, tmp_path, *options)
    assert code == 1
    assert message in error
    assert not (tmp_path / "checkpoint_last.pt").exists()


def test_one_model_teaches_its_mean_alone(corpus: Corpus, tmp_path: Path) -> None:
    """Ordinary distillation, online and from a store: EnD takes one teacher, others need two."""
    teacher = corpus.teachers[0]
    store = f"{tmp_path / 'train'}:{tmp_path / 'valid'}"
    for subset in ("train", "valid"):
        made = run(
            "seqdistill", "cache-targets", corpus.data, "--ensemble-paths", teacher, "--subset",
            subset, "--output", tmp_path / subset, "--top-k", 24,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    losses = []
    for name, given in (
        ("online", ["--ensemble-paths", teacher]),
        ("store", ["--ensemble-paths", "", "--target-store", store]),
    ):
        result = train(corpus, tmp_path / name, "--criterion", "mean_kl", "--max-update", 4, *given)
        assert result.returncode == 0, result.stderr[-2000:]
        records = logged(result.stdout + result.stderr, "train_inner")
        assert [record["ensemble_mi"] for record in records] == [0] * 4
        losses.append([record["loss"] for record in records])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    code, error = train_with(
        corpus, tmp_path, "--criterion", "proxy_dirichlet", "--ensemble-paths", "",
        "--target-store", store,
    )  # fmt: skip
    assert code == 1
    assert "is of 1 model, which has no disagreement to distil" in error
