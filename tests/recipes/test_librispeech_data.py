"""Sets of the LibriSpeech recipe: from a folder in its layout, from tones, and those that lack."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.an4.tones import draw_tones
from recipes.common.audio import read_split, write_split
from recipes.common.plan import make_plan
from recipes.common.recipe import REPOSITORY, load
from recipes.common.run import main as run
from recipes.common.work import WorkFolder
from recipes.librispeech.data import DataOptions, absent_sets, make_sets, source_files
from seqdistill.errors import InputError

pytest.importorskip("soundfile", reason="needs the extra seqdistill[speech]")
torchaudio = pytest.importorskip("torchaudio", reason="needs the extra seqdistill[speech]")

SPLITS = {
    "train-clean-100": ("ann", 5), "train-other-500": ("bob", 4),
    "dev-clean": ("cay", 2), "dev-other": ("dan", 2),
    "test-clean": ("eve", 3), "test-other": ("fay", 3),
}  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a folder LibriSpeech of small splits."""
    for name, (speaker, count) in SPLITS.items():
        voice = {speaker: 1.0}
        write_split(tmp_path / "data" / "LibriSpeech" / name, draw_tones(count, 1, name, voice))
    return tmp_path / "data"


def made(options: DataOptions, folder: Path) -> dict[str, list[tuple[str, str | None]]]:
    """Make all sets, and read speakers and transcripts of each."""
    for name, make in make_sets(options).items():
        make(folder / name)
    return {
        path.name: [(one.speaker, one.text) for one in read_split(path)]
        for path in sorted(folder.iterdir())
    }


def test_splits_are_joined_by_links(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    sets = made(DataOptions(root=str(corpus)), tmp_path / "sets")
    assert {name: sorted({s for s, _ in rows}) for name, rows in sets.items()} == {
        "train": ["ann", "bob"], "valid": ["cay", "dan"], "test": ["eve"], "test_other": ["fay"],
    }  # fmt: skip
    assert {name: len(rows) for name, rows in sets.items()} == {
        "train": 9, "valid": 4, "test": 3, "test_other": 3,
    }  # fmt: skip
    assert all((path / "ann").is_symlink() for path in [tmp_path / "sets" / "train"])
    # The folder of the splits itself will do, too.
    again = make_sets(DataOptions(root=str(corpus / "LibriSpeech")))
    assert set(again) == set(sets)


def test_folders_with_a_common_speaker_cannot_be_joined(corpus: Path, tmp_path: Path) -> None:
    write_split(corpus / "LibriSpeech" / "train-more", draw_tones(1, 1, "more", {"bob": 1.0}))
    with pytest.raises(InputError, match=r"the speaker bob is in .*train-more, too"):
        make_sets(DataOptions(root=str(corpus)))["train"](tmp_path / "train")


def test_limits_and_noise(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    options = DataOptions(root=str(corpus), train_limit=6, limit=2, noise_db=[5])
    sets = made(options, tmp_path / "sets")
    assert {name: len(rows) for name, rows in sets.items()} == {
        "noise5": 2, "train": 6, "valid": 2, "test": 2, "test_other": 2,
    }  # fmt: skip
    assert sets["noise5"] == sets["test"]


def test_tones_need_no_data(tmp_path: Path) -> None:
    sets = made(DataOptions(tones=5, limit=2), tmp_path)
    assert {name: len(rows) for name, rows in sets.items()} == {
        "train": 5, "valid": 2, "test": 2, "test_other": 2,
    }  # fmt: skip
    assert {speaker for speaker, _ in sets["test_other"]} == {"strange"}
    assert source_files(DataOptions()) == []


def test_what_is_not_there_is_named(corpus: Path, tmp_path: Path) -> None:
    absent = absent_sets(DataOptions(root=str(corpus)))
    assert set(absent) == {"ami", "common_voice_fr"}
    assert "python -m recipes.librispeech.ami makes one" in absent["ami"]
    given = DataOptions(root=str(corpus), ami=str(corpus / "LibriSpeech" / "dev-other"))
    assert set(absent_sets(given)) == {"common_voice_fr"}
    make_sets(given)["ami"](tmp_path / "ami")
    assert {one.speaker for one in read_split(tmp_path / "ami")} == {"dan"}
    other = DataOptions(root=str(corpus), test_other=["test-loud"])
    assert f"no test-loud in {corpus / 'LibriSpeech'}" in absent_sets(other)["test_other"]
    assert "test_other" not in make_sets(other)


def test_what_must_be_there(corpus: Path, tmp_path: Path) -> None:
    nowhere = DataOptions(root=str(tmp_path / "nowhere"))
    assert set(absent_sets(nowhere)) == {"ami", "common_voice_fr"}
    assert source_files(nowhere) == []
    with pytest.raises(InputError) as error:
        make_sets(nowhere)
    assert f"python -m recipes.librispeech.download {tmp_path / 'nowhere'} --yes" in str(
        error.value
    )
    assert "downloads 61.4 GB and needs " in str(error.value)
    with pytest.raises(InputError, match=r"expected split folders test-dirty, found dev-clean, "):
        make_sets(DataOptions(root=str(corpus), test=["test-dirty"]))
    with pytest.raises(InputError, match=r"data.options.ami: .*nowhere: no such folder"):
        make_sets(DataOptions(root=str(corpus), ami=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match=r"data.options.limit must be at least 1, got 0"):
        make_sets(DataOptions(limit=0))


def test_a_change_of_a_transcript_is_seen(corpus: Path) -> None:
    files = source_files(DataOptions(root=str(corpus)))
    assert len(files) == len(SPLITS)
    assert {path.name for path in files} >= {"ann-1.trans.txt", "fay-1.trans.txt"}


def test_sets_without_data_are_left_out_of_the_plan(corpus: Path) -> None:
    folder = REPOSITORY / "recipes" / "librispeech"
    root = f'data.options.root="{corpus}"'
    recipe = load(folder, [root])
    assert list(recipe.data.ood) == ["test_other"]
    assert list(recipe.left_out) == ["ami", "common_voice_fr"]
    names = " ".join(step.name for step in make_plan(recipe, WorkFolder(Path("work"))))
    assert "decode ensemble on test_other" in names
    assert "ami" not in names
    assert "average teacher5" in names
    ami = f'data.options.ami="{corpus / "LibriSpeech" / "dev-other"}"'
    assert list(load(folder, [root, ami]).data.ood) == ["test_other", "ami"]


def test_teachers_are_averages_where_the_recipe_wants_it(corpus: Path) -> None:
    folder = REPOSITORY / "recipes" / "librispeech"
    plan = make_plan(load(folder, ["scale=smoke"]), WorkFolder(Path("work")))
    steps = {step.name: step for step in plan}
    assert "--keep-last-epochs" in steps["teacher 1"].command
    assert "--no-epoch-checkpoints" not in steps["teacher 1"].command
    average = steps["average teacher1"]
    assert average.needs(steps["teacher 1"])
    assert average.outputs == (Path("work/teachers/teacher1/averaged.pt"),)
    student = steps["distil proxy"].command
    paths = "work/teachers/teacher1/averaged.pt:work/teachers/teacher2/averaged.pt"
    assert student[student.index("--ensemble-paths") + 1] == paths
    assert student[student.index("--student-init") + 1] == paths.partition(":")[0]
    assert "--no-epoch-checkpoints" in student
    with pytest.raises(InputError, match=r"teachers.average must be at least 1"):
        load(folder, ["scale=smoke", "teachers.average=0"])


def test_the_script_passes_its_options_on(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with 'a' space: #"
    corpus.rename(folder)
    script = REPOSITORY / "recipes" / "librispeech" / "run.sh"

    def dry_run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(script), *arguments, "--dry-run", "--stages", "1"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    done = dry_run("--smoke", "--data", folder.name)
    assert done.returncode == 0, done.stderr
    assert "--sets train valid test test_other noise5" in done.stdout
    assert str(folder) in done.stdout.replace("'\"'\"'", "'")
    assert '"root"' not in dry_run("--smoke").stdout
    assert dry_run("--smoke", "--data").returncode != 0


def test_missing_data_is_explained_where_the_run_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--work-dir", str(tmp_path / "work"), "--stages", "1"]
    settings = ["--set", "scale=smoke", "--set", f'data.options.root="{tmp_path / "nowhere"}"']
    recipe = str(REPOSITORY / "recipes" / "librispeech")
    assert run([recipe, *given, *settings]) == 1
    told = capsys.readouterr().err
    assert "the set ami is left out: data.options.ami names no folder" in told
    assert "recipes.librispeech.download" in told
