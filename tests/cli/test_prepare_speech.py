"""``seqdistill prepare-speech``: whole folders from real audio files, and every bad input."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from seqdistill.cli.main import main
from seqdistill.files import locked
from seqdistill.speech import load_features, log_mel_filterbanks, read_audio, read_manifest
from seqdistill.speech.problems import read_problems
from tests.reference.speech import mean_and_deviation
from tests.unit.speech_cases import DATA, audio_bytes, needs_data, tone, write_split

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    write_split(root / "train-a", 6)
    write_split(root / "train-b", 4, first=5, form="WAV")
    write_split(root / "dev", 4, first=8)
    write_split(root / "ood", 4, first=11, transcripts=False)
    return root


def arguments(corpus: Path, output: Path, *more: str, train: str = "train-a,train-b") -> list[str]:
    folders = ",".join(str(corpus / name) for name in train.split(","))
    splits = {"train": folders, "valid": str(corpus / "dev"), "ood": str(corpus / "ood")}
    options = [word for name, place in splits.items() for word in ("--split", f"{name}={place}")]
    return ["prepare-speech", str(output), *options, "--piece-type", "char", "--workers", "1",
            *more]  # fmt: skip


def fails(capsys: Captured, words: list[str], message: str, status: int = 1) -> str:
    capsys.readouterr()
    assert main(words) == status
    said = capsys.readouterr().err
    assert message in said
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


# --- what is made -----------------------------------------------------------------------------


def test_the_real_command_and_what_it_makes(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = arguments(corpus, output, "--cmvn", "global", "--specaugment", "ld")
    words[words.index("--workers") + 1] = "2"
    done = subprocess.run(
        [sys.executable, "-m", "seqdistill.cli.main", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-4:] == [
        "train: 10 utterances, 0.00 h, left out: none",
        "valid: 4 utterances, 0.00 h, left out: none",
        "ood: 4 utterances, without transcripts, 0.00 h, left out: none",
        f"{output}: 3 sets, 18 utterances, 0.00 h, 0 left out",
    ]
    frames = []
    for name, folders in (("train", "train-a,train-b"), ("valid", "dev"), ("ood", "ood")):
        files = [p for f in folders.split(",") for p in sorted((corpus / f).rglob("*.[fw][la]*"))]
        utterances = read_manifest(output / f"{name}.tsv")
        assert [one.id for one in utterances] == [path.stem for path in files]
        for one, path in zip(utterances, files, strict=True):
            features = load_features(str(output / one.audio), rate=16000)
            assert np.array_equal(features, log_mel_filterbanks(*read_audio(path)))
            assert one.n_frames == len(features)
            assert one.speaker == path.parts[-3]
            if name == "train":
                frames.append(features)
            if name == "ood":
                assert one.text is None
            else:
                (line,) = [
                    line
                    for line in next(path.parent.glob("*.trans.txt")).read_text().splitlines()
                    if line.startswith(one.id)
                ]
                assert one.text == line.partition(" ")[2]
        with zipfile.ZipFile(output / f"{name}.features.zip") as archive:
            assert archive.testzip() is None
            assert archive.namelist() == [f"{one.id}.npy" for one in utterances]
    statistics = np.load(output / "gcmvn.npz")
    for band in (0, 41, 79):
        expected = mean_and_deviation(np.concatenate(frames)[:, band].tolist())
        found = float(statistics["mean"][band]), float(statistics["std"][band])
        assert found == pytest.approx(expected, rel=1e-6)
    record = json.loads((output / "prepare.json").read_text())
    assert record["sets"]["train"]["utterances"] == 10
    assert record["sets"]["train"]["frames"] == sum(map(len, frames))
    assert record["sets"]["ood"]["unknown_pieces"] is None
    assert record["settings"]["specaugment"]["freq_mask_N"] == 2
    assert not (output / ".prepare").exists()


def test_fairseqs_own_dataset_reads_the_folder(corpus: Path, tmp_path: Path) -> None:
    from fairseq.data import Dictionary
    from fairseq.data.audio.data_cfg import S2TDataConfig
    from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDatasetCreator
    from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE, SentencepieceConfig

    output = tmp_path / "out"
    assert main(arguments(corpus, output, "--cmvn", "global", "--specaugment", "lb")) == 0
    config = S2TDataConfig(output / "config.yaml")
    dictionary = Dictionary.load(str(output / config.vocab_filename))
    model = config.bpe_tokenizer["sentencepiece_model"]
    bpe = SentencepieceBPE(SentencepieceConfig(sentencepiece_model=model))
    for name in ("train", "valid"):
        dataset = SpeechToTextDatasetCreator.from_tsv(
            str(output), config, name, dictionary, None, bpe,
            is_train_split=name == "train", epoch=1, seed=1,
        )  # fmt: skip
        utterances = read_manifest(output / f"{name}.tsv")
        assert len(dataset) == len(utterances)
        for index, one in enumerate(utterances):
            item = dataset[index]
            assert item.source.shape == (one.n_frames, 80)
            assert dictionary.unk() not in item.target
            assert bpe.decode(dictionary.string(item.target)) == one.text


def test_workers_change_nothing(tmp_path: Path) -> None:
    write_split(tmp_path / "corpus" / "train", 300, seconds=0.05, speakers=1)
    made = []
    for workers in ("1", "2"):
        words = ["prepare-speech", str(tmp_path / "out"), "--split",
                 f"train={tmp_path / 'corpus' / 'train'}", "--min-seconds", "0.03",
                 "--max-seconds", "99", "--piece-type", "char", "--cmvn", "global",
                 "--workers", workers]  # fmt: skip
        assert main(words) == 0
        made.append(contents(tmp_path / "out"))
        shutil.rmtree(tmp_path / "out")
    assert made[0] == made[1]
    assert len(made[0]["train.tsv"].splitlines()) == 301


def test_on_the_fly(corpus: Path, tmp_path: Path) -> None:
    assert main(arguments(corpus, tmp_path / "zip", "--cmvn", "global")) == 0
    output = tmp_path / "fly"
    assert main(arguments(corpus, output, "--cmvn", "global", "--audio", "on-the-fly")) == 0
    assert not list(output.glob("*.zip"))
    for name in ("train", "valid", "ood"):
        pairs = zip(
            read_manifest(output / f"{name}.tsv"),
            read_manifest(tmp_path / "zip" / f"{name}.tsv"),
            strict=True,
        )
        for one, zipped in pairs:
            assert (one.id, one.n_frames, one.text) == (zipped.id, zipped.n_frames, zipped.text)
            features = load_features(one.audio, rate=16000)
            kept = load_features(str(tmp_path / "zip" / zipped.audio), rate=16000)
            assert np.array_equal(features, kept)
    for name in ("gcmvn.npz", "dict.txt", "spm.model"):
        assert (output / name).read_bytes() == (tmp_path / "zip" / name).read_bytes()


def test_dry_run_says_what_would_be_done(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "out"
    (corpus / "dev" / "8" / "7" / "8-7-0000.flac").write_bytes(audio_bytes(tone(), 8000))
    words = arguments(corpus, output, "--max-problems", "1")
    assert main([*words, "--dry-run"]) == 0
    assert not output.exists()
    said = json.loads(capsys.readouterr().out)
    assert said["utterances"] == 17
    assert said["sets"]["valid"]["problems"] == {"rate": 1}
    assert said["sets"]["ood"]["has_transcripts"] is False
    assert main(words) == 0
    record = json.loads((output / "prepare.json").read_text())
    for name, one in said["sets"].items():
        assert one["utterances"] == record["sets"][name]["utterances"]
        assert one["hours"] == pytest.approx(record["sets"][name]["seconds"] / 3600, abs=6e-5)
        end = 22  # of every zip
        assert one["bytes"] + end == (output / f"{name}.features.zip").stat().st_size


def test_a_given_model_and_dictionary(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    first = tmp_path / "first"
    assert main(arguments(corpus, first)) == 0
    model, dictionary = str(first / "spm.model"), first / "dict.txt"
    for more in ([], ["--dictionary", str(dictionary)]):
        output = tmp_path / f"out{len(more)}"
        assert main(arguments(corpus, output, "--piece-model", model, *more)) == 0
        for name in ("spm.model", "dict.txt", "train.tsv"):
            assert (output / name).read_bytes() == (first / name).read_bytes()
    # No training set is needed then.
    words = ["prepare-speech", str(tmp_path / "test"), "--split", f"test={corpus / 'dev'}"]
    fails(capsys, words, "give --split train=FOLDER, or --piece-model")
    fails(capsys, [*words, "--piece-model", model, "--cmvn", "global"], "--cmvn utterance")
    fails(capsys, [*words, "--dictionary", model], "give --piece-model, too", 2)
    assert main([*words, "--piece-model", model]) == 0
    # One that was made for other transcripts.
    for trans in (corpus / "train-a").rglob("*.trans.txt"):
        rows = [line.partition(" ") for line in trans.read_text().splitlines()]
        trans.write_text("".join(f"{name} {text.lower()}\n" for name, _, text in rows))
    words = arguments(corpus, tmp_path / "case", "--piece-model", model, train="train-a")
    fails(capsys, words, "same case and language as the piece model")


# --- bad input --------------------------------------------------------------------------------


def spoil(corpus: Path) -> dict[str, str]:
    """One of everything in the training set's first speaker; return file → kind."""
    chapter = corpus / "train-a" / "1" / "7"
    lines = (chapter / "1-7.trans.txt").read_text().splitlines()
    whole = audio_bytes(tone(0.6))
    files = {
        "cut.flac": (whole[: len(whole) // 2], "unreadable"),
        "cut.wav": (audio_bytes(tone(0.6), form="WAV")[:-1000], "unreadable"),
        "text.wav": (b"this is no audio, this is text" * 9, "unreadable"),
        "nothing.flac": (b"", "empty"),
        "none.wav": (audio_bytes(tone()[:0], form="WAV"), "empty"),
        "8khz.flac": (audio_bytes(tone(), 8000), "rate"),
        "stereo.wav": (audio_bytes(np.stack([tone(), tone()], 1), form="WAV"), "channels"),
        "short.flac": (audio_bytes(tone(0.09)), "too-short"),
        "long.flac": (audio_bytes(tone(3.1)), "too-long"),
    }
    for name, (data, _) in files.items():
        (chapter / f"bad-{name}").write_bytes(data)
        lines.append(f"bad-{Path(name).stem} WORDS")
    # "cut" twice: the second is the transcript's duplicate and never looked at.
    (chapter / "bad-cut.wav").rename(chapter / "bad-cut2.wav")
    lines[lines.index("bad-cut WORDS")] = "bad-cut2 WORDS"
    lines.append("bad-absent WORDS")
    lines.append("bad-wordless")
    (chapter / "bad-wordless.flac").write_bytes(audio_bytes(tone()))
    (chapter / "bad-untold.flac").write_bytes(audio_bytes(tone()))
    (chapter / "1-7.trans.txt").write_text("\n".join(lines))
    kinds = {f"bad-{name}": kind for name, (_, kind) in files.items() if name != "cut.wav"}
    return kinds | {
        "bad-cut2.wav": "unreadable",
        "bad-untold.flac": "no-transcript",
        f"1-7.trans.txt:{lines.index('bad-absent WORDS') + 1}": "no-audio",
        f"1-7.trans.txt:{lines.index('bad-wordless') + 1}": "empty-transcript",
    }


def test_every_unusable_file_is_listed_and_counted(
    corpus: Path, tmp_path: Path, capsys: Captured
) -> None:
    expected = spoil(corpus)
    output = tmp_path / "out"
    words = arguments(corpus, output, "--max-seconds", "3")
    said = fails(capsys, words, "12 of 22 files cannot be used")
    assert "more than --max-problems 1 % allows" in said
    assert (
        "(3 unreadable, 2 empty, 1 rate, 1 channels, 1 too-short, 1 too-long, 1 no-transcript, "
        "1 no-audio, 1 empty-transcript)" in said
    )
    problems = read_problems(output / "problems.tsv")
    assert {Path(one.file).name: one.kind for one in problems} == expected
    assert {one.set for one in problems} == {"train"}
    whats = {Path(one.file).name: one.what for one in problems}
    assert whats["bad-8khz.flac"].startswith("expected 16000 samples a second, found 8000")
    assert whats["bad-stereo.wav"].startswith("expected 1 channel, found 2")
    assert whats["bad-short.flac"] == "expected at least 0.1 s, found 0.090 s"
    assert whats["bad-long.flac"] == "expected at most 3 s, found 3.1 s"
    assert "cut short" in whats["bad-cut2.wav"]
    assert not (output / "train.tsv").exists()
    # Allowed, it goes on: good utterances are all there and the others in the table.
    assert main([*words, "--max-problems", "12"]) == 0
    said = capsys.readouterr().err
    assert "train: 10 utterances, 0.00 h, left out: 3 unreadable, 2 empty," in said
    assert f"12 left out ({output / 'problems.tsv'})" in said
    assert len(read_problems(output / "problems.tsv")) == 12
    assert not [one for one in read_manifest(output / "train.tsv") if one.id.startswith("bad")]


def test_mended_files_are_looked_at_again(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    path = corpus / "dev" / "8" / "7" / "8-7-0000.flac"
    good = path.read_bytes()
    path.write_bytes(good[:-40])
    output = tmp_path / "out"
    fails(capsys, arguments(corpus, output), "set valid: 1 of 4 files cannot be used (1 unreadable")
    path.write_bytes(good)
    assert main(arguments(corpus, output)) == 0
    assert read_problems(output / "problems.tsv") == []
    assert len(read_manifest(output / "valid.tsv")) == 4


def test_sets_of_which_nothing_is_left(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "out"
    for path in (corpus / "dev").rglob("*.flac"):
        path.write_bytes(b"")
    said = fails(capsys, arguments(corpus, output, "--max-problems", "100%"), "set valid: expected")
    assert "found none that can be used (4 empty)" in said
    shutil.rmtree(corpus / "dev")
    (corpus / "dev").mkdir()
    fails(capsys, arguments(corpus, output), "found none that can be used (no audio files)")


def test_training_needs_transcripts(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    words = arguments(corpus, tmp_path / "out", train="ood")
    said = fails(capsys, words, "set train: expected transcripts (*.trans.txt), found none in")
    assert "only other sets may lack them" in said
    words = arguments(corpus, tmp_path / "out", train="none")
    fails(capsys, words, "expected a split folder in LibriSpeech layout, found nothing")


def test_a_rate_that_is_not_the_corpuss(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    said = fails(capsys, arguments(corpus, tmp_path / "out", "--rate", "8000"), "(10 rate)")
    assert said.count("found none that can be used") == 3


def test_pieces_that_cannot_be(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "out"
    words = arguments(corpus, output, "--piece-type", "unigram")
    said = fails(capsys, words, "--pieces 5000: the 10 transcripts give at most")
    most = said.split("choose --pieces ")[1].split()[0]
    # The features are there; other pieces can be asked for.
    notes = sorted((output / ".prepare").rglob("*.note.json"))
    assert len(notes) == 3
    before = [path.stat().st_mtime_ns for path in notes]
    fails(capsys, [*words, "--pieces", "5"], "--pieces 5: expected at least")
    assert [path.stat().st_mtime_ns for path in notes] == before
    assert main([*words, "--pieces", most]) == 0
    assert len((output / "dict.txt").read_text().splitlines()) == int(most) - 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--split", "x"], "expected NAME=FOLDER"),
        (["--split", "x=a,,b"], "expected NAME=FOLDER"),
        (["--split", "../x=a"], "expected a set's name"),
        (["--split", "problems=a"], "expected a set's name"),
        (["--split", "train-b=a"], "begins with 'train'"),
        (["--min-seconds", "0.01"], "0.025 <= --min-seconds"),
        (["--max-seconds", "0.05"], "--min-seconds <= --max-seconds"),
        (["--max-problems", "x"], "expected a number or a percentage"),
        (["--workers", "0"], "at least 1"),
        (["--cmvn", "some"], "invalid choice"),
    ],
)
def test_wrong_usage(
    more: list[str], message: str, corpus: Path, tmp_path: Path, capsys: Captured
) -> None:
    fails(capsys, arguments(corpus, tmp_path / "out", *more), message, 2)
    assert not (tmp_path / "out").exists()


def test_given_files_that_are_missing(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    for option in ("--piece-model", "--specaugment"):
        words = arguments(corpus, tmp_path / "out", option, str(tmp_path / "none"))
        fails(capsys, words, "no such file")
    assert not (tmp_path / "out").exists()


# --- folders that are there already -----------------------------------------------------------


def test_the_same_command_again_changes_nothing(
    corpus: Path, tmp_path: Path, capsys: Captured
) -> None:
    output = tmp_path / "out"
    assert main(arguments(corpus, output)) == 0
    before = contents(output)
    capsys.readouterr()
    assert main(arguments(corpus, output)) == 0
    assert contents(output) == before
    assert capsys.readouterr().err.count("(was there before)") == 3


def test_other_settings_are_refused_by_name(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "out"
    assert main(arguments(corpus, output)) == 0
    before = contents(output)
    for more, message in [
        (["--max-seconds", "30"], "max_seconds: the folder has 40.0, here it is 30.0"),
        (["--pieces", "400"], "pieces: the folder has 5000, here it is 400"),
        (["--cmvn", "global"], "cmvn: the folder has utterance, here it is global"),
        (["--audio", "on-the-fly"], "audio: the folder has zip, here it is on-the-fly"),
        (["--specaugment", "lb"], "specaugment: the folder has nothing, here it is"),
    ]:
        said = fails(capsys, arguments(corpus, output, *more), message)
        assert said.count("the folder has") == 1
        assert "--overwrite" in said
    said = fails(capsys, arguments(corpus, output, train="train-a"), "set train folders")
    path = corpus / "dev" / "8" / "7" / "8-7-0000.flac"
    path.write_bytes(audio_bytes(tone(0.7)))
    fails(capsys, arguments(corpus, output), "set valid sha256: the folder has")
    path.unlink()
    fails(capsys, arguments(corpus, output), "set valid recordings: the folder has 4, here it is 3")
    assert contents(output) == before
    words = arguments(corpus, output, "--max-seconds", "30", "--max-problems", "1", "--overwrite")
    assert main(words) == 0
    assert len(read_manifest(output / "valid.tsv")) == 3


def test_sets_are_added_to_a_finished_folder(corpus: Path, tmp_path: Path) -> None:
    output, whole = tmp_path / "out", tmp_path / "whole"
    split = f"train={corpus / 'train-a'},{corpus / 'train-b'}"
    kind = ["--piece-type", "char", "--workers", "1"]
    assert main(["prepare-speech", str(output), "--split", split, *kind]) == 0
    shutil.rmtree(corpus / "train-a")  # not needed any more
    for name, folder in (("valid", "dev"), ("ood", "ood")):
        split = f"{name}={corpus / folder}"
        assert main(["prepare-speech", str(output), "--split", split, *kind]) == 0
    write_split(corpus / "train-a", 6)
    assert main(arguments(corpus, whole)) == 0
    made, expected = contents(output), contents(whole)
    for record in (made, expected):
        del record["config.yaml"], record["prepare.json"]  # the folder's name and the times
    assert made == expected
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert config["audio_root"] == str(output)


def test_a_file_that_was_removed_is_made_again(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = arguments(corpus, output, "--cmvn", "global")
    assert main(words) == 0
    before = contents(output)
    for name in ("valid.tsv", "ood.features.zip", "spm.model", "config.yaml", "gcmvn.npz"):
        (output / name).unlink()
        assert main(words) == 0
        assert contents(output) == before


def test_folders_of_others_are_left_alone(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    fails(capsys, arguments(corpus, output), "is not empty (thesis.tex) and no prepared speech")
    fails(capsys, arguments(corpus, output, "--overwrite"), "holds thesis.tex, which")
    assert (output / "thesis.tex").read_text() == "years of work"
    (output / "thesis.tex").unlink()
    assert main(arguments(corpus, output)) == 0
    (output / "prepare.json").write_text('{"format": "something", "version": 1}')
    fails(capsys, arguments(corpus, output), "prepare.json: expected 'seqdistill prepared speech'")


def test_one_process_at_a_time(corpus: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "out"
    with locked(output):
        fails(capsys, arguments(corpus, output), "is writing this folder")


_KILLED = """
import os, signal, sys
from seqdistill.cli.main import main

def dying(function, places):
    def call(*arguments, **keywords):
        places[0] += 1
        if places[0] == crash_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call

folder, is_there, words = sys.argv[1], sys.argv[2] == "overwrite", sys.argv[3:]
replace, unlink = os.replace, os.unlink
os.fsync = lambda descriptor: None  # slow, and for power cuts only
crash_at = 0
while True:
    crash_at += 1
    words[1] = os.path.join(folder, str(crash_at), "out")
    if is_there and main(words) != 0:
        sys.exit("could not be made")
    options = ["--overwrite"] if is_there else []
    child = os.fork()
    if not child:
        places = [0]
        os.replace, os.unlink = dying(replace, places), dying(unlink, places)
        os._exit(main(words + options))
    status = os.waitpid(child, 0)[1]
    if main(words + options) != 0:
        sys.exit(f"crash {crash_at}: does not go on")
    if status == 0:
        print(crash_at)
        sys.exit(0)
    if status != signal.SIGKILL:
        sys.exit(f"crash {crash_at}: ended with {status}")
"""


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_whenever_it_is_killed_it_goes_on(mode: str, tmp_path: Path) -> None:
    """Killed (-9) before each time that something is renamed (as every file is) or removed."""
    corpus = tmp_path / "corpus"
    count = 130 if mode == "new" else 6  # two shards, or one
    write_split(corpus / "train", count, seconds=0.03, speakers=1)
    for path in sorted((corpus / "train").rglob("*.flac"))[64:]:
        path.write_bytes(audio_bytes(tone(0.04)))
    write_split(corpus / "test", 2, transcripts=False)
    (corpus / "test" / "1" / "7" / "bad.flac").write_bytes(b"")
    words = ["prepare-speech", str(tmp_path / "whole" / "out"), "--split",
             f"train={corpus / 'train'}", "--split", f"test={corpus / 'test'}",
             "--piece-type", "char", "--cmvn", "global", "--min-seconds", "0.025",
             "--max-problems", "1", "--workers", "1"]  # fmt: skip
    assert main(words) == 0
    expected = contents(tmp_path / "whole" / "out")
    assert len(expected["train.tsv"].splitlines()) == count + 1
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "killed"), mode, *words],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    crashes = int(done.stdout)
    assert crashes > 30
    for number in range(1, crashes + 1):
        made = contents(tmp_path / "killed" / str(number) / "out")
        for name in made.keys() | expected.keys():
            if name not in ("config.yaml", "prepare.json"):  # they name the folder
                assert made.get(name) == expected.get(name), (number, name)


def test_done_shards_are_not_done_again(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_split(corpus / "train", 300, seconds=0.03, speakers=1)
    paths = sorted(corpus.rglob("*.flac"))
    good = paths[200].read_bytes()
    paths[200].write_bytes(good[:50])
    words = ["prepare-speech", str(tmp_path / "out"), "--split", f"train={corpus / 'train'}",
             "--piece-type", "char", "--min-seconds", "0.025", "--workers", "1",
             "--max-seconds", "99", "--max-problems", "0"]  # fmt: skip
    assert main(words) == 1
    notes = sorted((tmp_path / "out" / ".prepare" / "train").glob("*.note.json"))
    before = [path.stat().st_mtime_ns for path in notes]
    paths[200].write_bytes(good)
    words[-1] = "0%"
    (tmp_path / "gone").write_text("")
    assert main([*words, "--piece-type", "unigram"]) == 1  # 5,000 pieces are too many
    after = [path.stat().st_mtime_ns for path in notes]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert main(words) == 0


def test_text_users_need_nothing_of_this(corpus: Path, tmp_path: Path) -> None:
    """Where a library is missing, the verb says so before it does anything; others work."""
    code = """
import sys
sys.modules[sys.argv[1]] = None
from seqdistill.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
    words = arguments(corpus, tmp_path / "out")
    for module in ("soundfile", "sentencepiece", "torchaudio"):
        done = subprocess.run(
            [sys.executable, "-c", code, module, *words], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"needs {module}" in done.stderr
        assert 'pip install "seqdistill[speech]"' in done.stderr
        assert not (tmp_path / "out").exists()


# --- real data --------------------------------------------------------------------------------


@pytest.mark.data
@needs_data
def test_real_corpora(tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "out"
    folders = {"train": "fsdd_strings/LibriSpeech/train-fsdd",
               "test": "fsdd_strings/LibriSpeech/test-fsdd",
               "an4": "an4/LibriSpeech/test-an4",
               "german": "kerstin_de/LibriSpeech/ood-german"}  # fmt: skip
    splits = [w for name, f in folders.items() for w in ("--split", f"{name}={DATA / f}")]
    words = ["prepare-speech", str(output), *splits, "--piece-type", "char", "--workers", "1"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "train: 764 utterances, 0.44 h, left out: none" in said
    assert "pieces of the transcripts are unknown" in said  # German letters
    for name in folders:
        one = read_manifest(output / f"{name}.tsv")[3]
        (path,) = (DATA / folders[name]).rglob(f"{one.id}.flac")
        features = load_features(str(output / one.audio), rate=16000)
        assert np.array_equal(features, log_mel_filterbanks(*read_audio(path)))
