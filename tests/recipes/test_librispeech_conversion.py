"""AMI and Common Voice in LibriSpeech's layout."""

import io
from pathlib import Path

import numpy as np
import pytest

from recipes.common.audio import RATE, Spoken, read_split
from recipes.librispeech import ami, common_voice
from recipes.librispeech.ami import audio_file, read_segments
from recipes.librispeech.conversion import convert, normalise
from recipes.librispeech.mp3 import count_samples
from seqdistill.errors import InputError
from seqdistill.speech.layout import list_set

soundfile = pytest.importorskip("soundfile", reason="needs the extra seqdistill[speech]")
pytest.importorskip("torchaudio", reason="needs the extra seqdistill[speech]")


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def pitch(waveform: np.ndarray) -> float:
    """The strongest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(waveform))
    return float(spectrum.argmax() * RATE / len(waveform))


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    """Two recordings, whose pitch says where in them one is."""
    folder = tmp_path / "eval"
    folder.mkdir()
    for name, rate in (("A", 16_000), ("B", 32_000)):
        parts = [tone(1.0, rate, hertz) for hertz in (300, 500, 700)]
        soundfile.write(folder / f"{name}.wav", np.concatenate(parts), rate, subtype="PCM_16")
    (folder / "segments").write_text("u2 B 2.1 2.9\nu1 A 1.0 1.5\nu3 A 0.1 0.9\n")
    (folder / "text").write_text("u1 so it's A_M_I\nu2 UH okay.\nu3 yeah\nunused words\n")
    (folder / "utt2spk").write_text("u1 FE-01\nu2 FE-01\nu3 ME-02\n")
    command = f"sox -c 1 -t wavpcm -s {folder}/B.wav -t wavpcm - |"
    (folder / "wav.scp").write_text(f"A A.wav\nB {command}\n")
    return folder


def test_ami(meeting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ami.main([str(meeting), str(tmp_path / "ami")]) == 0
    assert f"{tmp_path / 'ami'}: 3 utterances, 0 left out" in capsys.readouterr().out
    listing = list_set("ami", [tmp_path / "ami"])
    assert listing.problems == []
    texts = {one.id: (one.speaker, one.text) for one in listing.recordings}
    assert texts == {
        "u1": ("FE_01", "SO IT'S A M I"), "u2": ("FE_01", "UH OKAY"), "u3": ("ME_02", "YEAH"),
    }  # fmt: skip
    # By speaker and id: u1 and u2 of FE_01, u3.
    waveforms = [one.waveform for one in read_split(tmp_path / "ami")]
    assert [len(waveform) for waveform in waveforms] == [8000, 12800, 12800]
    pitches = [pitch(waveform) for waveform in waveforms]
    assert pitches == pytest.approx([500, 700, 300], abs=2)


def test_segments_that_cannot_be_used(
    meeting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(meeting / "segments", "a") as handle:
        handle.write("late A 2.5 3.5\nsilent A 0 1\ngone C 0 1\n")
    with open(meeting / "text", "a") as handle:
        handle.write("late words\nsilent\ngone words\n")
    with open(meeting / "wav.scp", "a") as handle:
        handle.write("C nowhere.wav\n")
    given = [str(meeting), str(tmp_path / "ami")]
    assert ami.main(given) == 1
    message = capsys.readouterr().err
    assert "silent: expected words, found none" in message
    assert "problem 1, and 0 are allowed" in message
    assert not (tmp_path / "ami").exists()
    assert ami.main([*given, "--max-problems", "3"]) == 0
    told = capsys.readouterr().out
    assert "3 utterances, 3 left out" in told
    listed = (tmp_path / "ami" / "problems.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["silent", "late", "gone"]
    assert "at least 3.5 s, found 3.00 s" in listed[1]
    assert "nowhere.wav: expected an audio file, found none" in listed[2]
    assert len(list_set("ami", [tmp_path / "ami"]).recordings) == 3


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("segments", "u1 A 1.0\n", r"segments:1: expected 4 words, found 'u1 A 1.0'"),
        ("segments", "u1 A 2.0 1.0\n", r"u1: expected begin and end in seconds, found '2.0 1.0'"),
        ("segments", "u1 A one two\n", r"found 'one two'"),
        ("segments", "u1 A 0 1\nu1 A 1 2\n", r"segments:2: u1 is there twice"),
        ("text", "u2 words\n", r"text: expected a line u., found none"),
        ("wav.scp", "A A.wav\n", r"wav.scp: expected a line B, found none"),
        ("wav.scp", "A A.wav\nB cat a.wav b.wav |\n", r"expected one .wav or .flac file, found"),
    ],
)
def test_data_folders_that_are_wrong(
    meeting: Path, tmp_path: Path, file: str, content: str, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import re

    (meeting / file).write_text(content)
    assert ami.main([str(meeting), str(tmp_path / "ami")]) == 1
    assert re.search(message, capsys.readouterr().err)
    with pytest.raises(InputError, match=r"expected a data folder of Kaldi or ESPnet"):
        read_segments(tmp_path)


def test_places_of_recordings(tmp_path: Path) -> None:
    assert audio_file(tmp_path, "A", "/x/a.wav") == Path("/x/a.wav")
    assert audio_file(tmp_path, "A", "wav/a.flac") == tmp_path / "wav" / "a.flac"
    assert audio_file(tmp_path, "A", "flac -c -d -s /x/a.flac |") == Path("/x/a.flac")


def mp3(waveform: np.ndarray, rate: int = 48_000, mode: str = "CONSTANT") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, waveform, rate, format="MP3", bitrate_mode=mode)
    return stream.getvalue()


@pytest.fixture
def french(tmp_path: Path) -> Path:
    folder = tmp_path / "cv-corpus-1" / "fr"
    (folder / "clips").mkdir(parents=True)
    for number, rate in enumerate((48_000, 32_000, 16_000)):
        content = mp3(tone(1.0 + number / 2, rate, 300 + 200 * number), rate)
        (folder / "clips" / f"common_voice_fr_{number}.mp3").write_bytes(content)
    (folder / "test.tsv").write_text(
        "client_id\tpath\tsentence\tup_votes\n"
        'b4f\tcommon_voice_fr_0.mp3\tÇa, c’est "l\'été".\t2\n'
        "00a\tcommon_voice_fr_1.mp3\t« Où est-elle ? »\t2\n"
        "b4f\tcommon_voice_fr_2.mp3\tEn 1998\t2\n",
        encoding="utf-8",
    )
    return folder


def test_common_voice(french: Path, tmp_path: Path) -> None:
    assert common_voice.main([str(french), str(tmp_path / "cv")]) == 0
    listing = list_set("cv", [tmp_path / "cv"])
    assert listing.problems == []
    texts = {one.id: (one.speaker, one.text) for one in listing.recordings}
    assert texts == {
        "common_voice_fr_0": ("cv1", "ÇA C'EST L'ÉTÉ"),
        "common_voice_fr_1": ("cv2", "OÙ EST ELLE"),
        "common_voice_fr_2": ("cv1", "EN 1998"),
    }
    # By speaker: clips 0 and 2 of cv1, clip 1.
    found = [one.waveform for one in read_split(tmp_path / "cv")]
    assert [len(waveform) / RATE for waveform in found] == pytest.approx([1.0, 2.0, 1.5], abs=0.01)
    assert [pitch(waveform) for waveform in found] == pytest.approx([300, 700, 500], abs=3)


def test_clips_that_cannot_be_used(
    french: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = french / "clips" / "common_voice_fr_0.mp3"
    first.write_bytes(first.read_bytes()[:2000])
    (french / "clips" / "common_voice_fr_1.mp3").unlink()
    given = [str(french), str(tmp_path / "cv"), "--max-problems"]
    assert common_voice.main([*given, "1"]) == 1
    assert "common_voice_fr_1.mp3: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "cv").exists()
    assert common_voice.main([*given, "2"]) == 0
    listed = (tmp_path / "cv" / "problems.tsv").read_text()
    assert "common_voice_fr_0.mp3\tcut short" in listed
    (found,) = list_set("cv", [tmp_path / "cv"]).recordings
    assert found.text == "EN 1998"


def test_tables_that_are_wrong(
    french: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(french), str(tmp_path / "cv"), "--table", "dev.tsv"]
    assert common_voice.main(given) == 1
    assert "dev.tsv: no such file" in capsys.readouterr().err
    (french / "dev.tsv").write_text("client_id\tpath\na\tb.mp3\n")
    assert common_voice.main(given) == 1
    assert "found no sentence" in capsys.readouterr().err
    (french / "dev.tsv").write_text("client_id\tpath\tsentence\na\tb.mp3\n")
    assert common_voice.main(given) == 1
    assert "dev.tsv:2: expected client_id, path, sentence" in capsys.readouterr().err
    (tmp_path / "cv").mkdir()
    assert common_voice.main(given[:2]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [48_000, 32_000, 22_050, 8_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_frames_of_an_mp3_are_counted(rate: int, mode: str) -> None:
    generator = np.random.default_rng(3)
    seconds = 3.0
    waveform = tone(seconds, rate) * (np.arange(round(seconds * rate)) % rate > rate // 2)
    waveform += 0.01 * generator.standard_normal(len(waveform)).astype(np.float32)
    data = mp3(waveform, rate, mode)
    frame = 1152 if rate >= 32_000 else 576
    samples = count_samples(data)
    assert samples % frame == 0
    assert len(waveform) < samples <= len(waveform) + 4 * frame
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x05" + b"\xff" * 133  # 1 · 128 + 5 bytes of a tag
    assert count_samples(tag + data) == samples
    assert count_samples(data[:-10]) == samples - frame
    assert count_samples(b"no audio") == 0


def test_an_mp3_that_libsndfile_reads_in_part(
    french: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of varying bitrate, without the frame that says how long it is, and quiet at its end."""
    loud = np.random.default_rng(1).standard_normal(48_000 * 2).astype(np.float32) / 10
    data = mp3(np.concatenate([loud, np.zeros(48_000 * 4, np.float32)]), mode="VARIABLE")
    assert b"Xing" in data[:100]
    bare = data[data.index(b"\xff\xfb", 2) :]
    (french / "clips" / "common_voice_fr_0.mp3").write_bytes(bare)
    assert common_voice.main([str(french), str(tmp_path / "cv")]) == 1
    assert "libsndfile reads" in capsys.readouterr().err


def test_a_set_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / ".converting-set").mkdir()
    (tmp_path / ".converting-set" / "left").write_text("by a killed process")
    with pytest.raises(InputError, match="there are no utterances"):
        convert(tmp_path / "set", lambda problems: [], 0, 0)
    assert list(tmp_path.iterdir()) == []
    one = Spoken("ann", tone(0.1, RATE), "WORD", name="n")
    convert(tmp_path / "set", lambda problems: [one], 1, 0)
    assert sorted(path.name for path in (tmp_path / "set" / "ann" / "1").iterdir()) == [
        "ann-1.trans.txt", "n.flac",
    ]  # fmt: skip


def test_transcripts_as_librispeech_has_them() -> None:
    assert normalise("'tis the dogs' -- isn't it?") == "'TIS THE DOGS' ISN'T IT"
    assert normalise(" ' … ") == ""
