"""Text of WMT17's recipe: the task's formats, cleaning, what is left out, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.common.cleaning import REASONS
from recipes.common.config import build
from recipes.common.plan import make_plan
from recipes.common.recipe import REPOSITORY, load
from recipes.common.work import WorkFolder
from recipes.wmt17_en_de.archives import ARCHIVES, CORPORA
from recipes.wmt17_en_de.data import COUNTS, DataOptions, absent_sets, source_files, write_text
from recipes.wmt17_en_de.invented import TRANSCRIPTS, write_raw
from recipes.wmt17_en_de.raw import read_pairs, read_sgm, read_transcripts
from seqdistill.errors import InputError

FOLDER = REPOSITORY / "recipes" / "wmt17_en_de"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "wmt17"
    write_raw(folder, train=20, held_out=4, seed=1)
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_every_set_is_written(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_text(DataOptions(str(root), librispeech=str(root / TRANSCRIPTS)), out, "en", "de")
    parallel = ("train", "valid", "test", "newstest2017", "biomedical")
    alone = ("german_source", "french_source", "speech_transcripts")
    names = [f"{name}.{side}" for name in parallel for side in ("en", "de")]
    names += [f"{name}.en" for name in alone]
    assert {path.name for path in out.iterdir()} == {*names, COUNTS}
    assert lines(out / "german_source.en") == lines(out / "test.de")
    assert lines(out / "test.en") == read_sgm(root / "newstest/newstest2014.en.sgm")
    assert len(lines(out / "biomedical.de")) == 4  # two of dev, two of test
    assert len(lines(out / "train.en")) == len(lines(out / "train.de")) == 20
    assert all(
        line[0].isupper() and line[-1] == "." for line in lines(out / "speech_transcripts.en")
    )


def test_all_dirt_is_dropped_and_counted(root: Path, tmp_path: Path) -> None:
    write_text(DataOptions(str(root)), tmp_path / "out", "en", "de")
    counts = json.loads((tmp_path / "out" / COUNTS).read_text())["corpora"]
    assert list(counts) == list(CORPORA)
    for count in counts.values():
        assert count == {"read": 21, "kept": 5, "dropped": dict.fromkeys(REASONS, 2)}
    assert not set(lines(tmp_path / "out/train.en")) & set(lines(tmp_path / "out/test.en"))


def test_some_corpora_and_the_first_sentences(root: Path, tmp_path: Path) -> None:
    options = DataOptions(str(root), corpora=["rapid2016"], train_limit=3, limit=2)
    write_text(options, tmp_path / "out", "en", "de")
    first = (root / "rapid2016/train.en").read_bytes().splitlines()[:3]
    assert lines(tmp_path / "out/train.en") == [line.decode() for line in first]
    assert len(lines(tmp_path / "out/french_source.en")) == 2


def test_the_same_seed_makes_up_the_same_corpus(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        write_text(DataOptions(invented=20, limit=4, seed=seed), tmp_path / name / "t", "en", "de")
    one, two, other = (lines(tmp_path / name / "t/train.de") for name in ("one", "two", "other"))
    assert one == two
    assert not set(one) & set(other)
    assert {path.name for path in (tmp_path / "one/invented").iterdir()} == {
        *ARCHIVES, "LibriSpeech",
    }  # fmt: skip


def test_sgm(tmp_path: Path) -> None:
    path = tmp_path / "a.sgm"
    path.write_text('<refset>\n<seg id="1">Tom &amp;  &lt;Tim&gt;</seg>\n<SEG ID=2>a\nb </SEG>\n')
    assert read_sgm(path) == ["Tom & <Tim>", "a b"]
    path.write_text("plain text\n")
    with pytest.raises(InputError, match="expected sentences in <seg>"):
        read_sgm(path)
    with pytest.raises(InputError, match="no such file; expected a test set"):
        read_sgm(tmp_path / "b.sgm")


def test_transcripts(tmp_path: Path) -> None:
    folder = tmp_path / "1" / "2"
    folder.mkdir(parents=True)
    (folder / "1-2.trans.txt").write_text("1-2-0000 IT ISN'T HERE\n1-2-0001 A\n")
    assert read_transcripts(tmp_path) == ["It isn't here.", "A."]
    with pytest.raises(InputError, match=r"trans\.txt in it, found none"):
        read_transcripts(folder)


def test_sides_of_different_length(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2\n")
    (tmp_path / "b").write_bytes(b"1\n\n3\n")
    with pytest.raises(InputError, match="a: ends after line 2, before the other side does"):
        list(read_pairs(tmp_path / "a", tmp_path / "b"))
    with pytest.raises(InputError, match="c: no such file"):
        list(read_pairs(tmp_path / "c", tmp_path / "b"))


def test_sets_whose_data_is_not_there_are_left_out(root: Path) -> None:
    assert absent_sets(DataOptions()) == {}
    assert absent_sets(DataOptions("/nowhere", librispeech="/nowhere")) == {}
    assert list(absent_sets(DataOptions(str(root)))) == ["speech_transcripts"]
    for path in (root / "khresmoi").iterdir():
        path.unlink()
    (root / "khresmoi").rmdir()
    absent = absent_sets(DataOptions(str(root)))
    assert "--only khresmoi" in absent["biomedical"]
    recipe = load(FOLDER, [f"data.options.root={root}"])
    assert list(recipe.data.ood) == ["permuted", "german_source", "french_source"]
    assert list(recipe.left_out) == ["biomedical", "speech_transcripts"]


def test_every_file_that_is_read_is_a_source_file(root: Path, tmp_path: Path) -> None:
    options = DataOptions(str(root), librispeech=str(root / TRANSCRIPTS))
    files = source_files(options)
    assert all(path.is_file() for path in files)
    assert len(files) == 2 * 4 + 7 + 4 + 1
    (root / "rapid2016/train.de").unlink()
    fewer = DataOptions(str(root), corpora=["commoncrawl"])
    assert root / "rapid2016/train.de" not in source_files(fewer)
    write_text(fewer, tmp_path / "out", "en", "de")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 0}, "data.options.limit must be at least 1"),
        ({"corpora": []}, "data.options.corpora must be some of europarl-v7"),
        ({"corpora": ["giga"]}, "data.options.corpora must be some of europarl-v7"),
        ({"root": "/nowhere"}, "recipes.wmt17_en_de.download /nowhere --yes downloads 1.9 GB"),
        ({"rules": {"max_words": 1}}, "cleaning leaves no pair to train on"),
    ],
)
def test_bad_options(root: Path, tmp_path: Path, values: dict[str, Any], message: str) -> None:
    options = build(DataOptions, {"root": str(root), **values}, "data.options")
    with pytest.raises(InputError, match=message):
        write_text(options, tmp_path / "out", "en", "de")


def test_another_direction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.source_lang en and data\.target_lang de"):
        write_text(DataOptions(), tmp_path, "de", "en")


@pytest.fixture
def plan() -> Callable[..., dict[str, str]]:
    """Commands of a plan by step."""

    def commands(*settings: str) -> dict[str, str]:
        steps = make_plan(load(FOLDER, settings), WorkFolder(Path("work")))
        return {step.name: " ".join(step.command) for step in steps}

    return commands


def test_published_settings_and_ours_stand_side_by_side(
    plan: Callable[..., dict[str, str]],
) -> None:
    commands = plan()
    teacher, paper, ours = (commands[n] for n in ("teacher 10", "distil proxy", "distil our_proxy"))
    for text in ("--seed 10", "--dropout 0.1", "--max-tokens 4096", "--clip-norm 0.0"):
        assert text in teacher
    shared = "--criterion proxy_dirichlet --concentration mkl --normalisation proxy --offset 1.0"
    paper_only = ("--lr 5e-4", "--lr-scheduler inverse_sqrt", "--warmup-updates 4000",
                  "--dropout 0.2", "--weight-decay 0.0001", "--clip-norm 10.0")  # fmt: skip
    for text in (shared, *paper_only, "--max-update 20000"):
        assert text in paper
    assert "--student-init" not in paper
    assert "--student-init work/teachers/teacher1/averaged.pt" in ours
    for text in ("--lr 2e-4", "--lr-scheduler polynomial_decay", "--mix-weight 0.3"):
        assert text in ours
    assert "--targets both" in commands["targets of train"]
    assert "work/targets/train/data" in paper


@pytest.mark.parametrize(("scale", "gpus"), [("full", 1), ("eight_gpus", 8)])
def test_an_update_is_as_large_on_any_number_of_gpus(
    plan: Callable[..., dict[str, str]], scale: str, gpus: int
) -> None:
    commands = plan(f"scale={scale}")
    for name, tokens in (("teacher 1", 32_768), ("distil end2", 262_144)):
        words = commands[name].split()
        batch, times = (int(words[words.index(w) + 1]) for w in ("--max-tokens", "--update-freq"))
        assert batch * times * gpus == tokens
        assert words[:5] == [
            "torchrun",
            "--standalone",
            "--nproc_per_node",
            str(gpus),
            "--no-python",
        ]
        assert words[5] == "seqdistill-fairseq-train"
        assert words[words.index("--deepspeed") + 1].endswith("deepspeed/stage1.json")


@pytest.mark.parametrize(
    ("scale", "json_file", "stage", "processes"),
    [
        ("full", "stage1.json", 1, 1),
        ("eight_gpus", "stage1.json", 1, 8),
        ("eight_gpus", "stage3.json", 3, 8),
        ("smoke", "smoke.json", 1, 2),
    ],
)
@pytest.mark.parametrize("name", ["teacher 1", "distil proxy", "distil our_proxy"])
def test_deepspeeds_configurations_agree_with_the_trainings(
    plan: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    scale: str,
    json_file: str,
    stage: int,
    processes: int,
    name: str,
) -> None:
    pytest.importorskip("deepspeed")
    options = pytest.importorskip("fairseq.options")
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from fairseq_plugins.scale.configuration import engine_configuration
    from fairseq_plugins.scale.launch import take_option

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    path = f"recipes/wmt17_en_de/deepspeed/{json_file}"
    steps = make_plan(
        load(FOLDER, [f"scale={scale}", f"launch.deepspeed={path}"]), WorkFolder(Path("work"))
    )
    (command,) = (list(step.command) for step in steps if step.name == name)
    given, arguments = take_option(command[command.index("seqdistill-fairseq-train") + 1 :])
    assert given == path
    parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
    cfg = convert_namespace_to_omegaconf(parsed)
    values = json.loads((REPOSITORY / path).read_text())
    configuration = engine_configuration(values, cfg, processes, path)
    assert configuration.stage == stage
    assert configuration.values["bf16"]["enabled"] == (scale != "smoke")
    update = {"teacher 1": (32_768, 4096), "distil proxy": (262_144, 1024)}.get(name)
    if update is not None and scale != "smoke":
        tokens, batch = update
        steps_an_update = configuration.values["gradient_accumulation_steps"]
        assert steps_an_update * batch * processes == tokens
