"""Manifests are read back as they were written; features are found where they say."""

import csv
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seqdistill.errors import InputError
from seqdistill.speech import (
    Utterance,
    check_place,
    load_features,
    log_mel_filterbanks,
    read_audio,
    read_manifest,
    write_manifest,
)
from tests.unit.speech_cases import audio_bytes, tone

FIRST = Utterance("1-1-0001", "train.features.zip:40:960", 98, 'SHE SAID "NO"', "1")
SECOND = Utterance("1-1-0002", "train.features.zip:1100:960", 5, "ÜBER\u2028ALLES", None)


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    write_manifest(path, [FIRST, SECOND])
    assert read_manifest(path) == [FIRST, SECOND]
    silent = [replace(FIRST, text=None), replace(SECOND, text=None)]
    write_manifest(path, silent)
    assert read_manifest(path) == silent


def test_fairseq_reads_the_same(tmp_path: Path) -> None:
    write_manifest(tmp_path / "train.tsv", [FIRST, SECOND])
    # As fairseq's SpeechToTextDatasetCreator opens it.
    with open(tmp_path / "train.tsv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quotechar=None, doublequote=False,
                                   lineterminator="\n", quoting=csv.QUOTE_NONE))  # fmt: skip
    assert [row["tgt_text"] for row in rows] == [FIRST.text, SECOND.text]
    assert [row["speaker"] for row in rows] == ["1", ""]
    assert [int(row["n_frames"]) for row in rows] == [98, 5]


def test_more_and_fewer_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("id\tn_frames\taudio\tsrc_text\ttgt_text\r\nu\t7\ta.wav\tx\tHI\r\n")
    assert read_manifest(path) == [Utterance("u", "a.wav", 7, "HI", None)]


LINE = "u\ta.wav\t7\tHI\ts\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1: expected the columns id, audio"),
        ("id\taudio\ttgt_text\nu\ta.wav\tHI\n", r":1: .* found no n_frames"),
        ("{header}", "expected utterances, found none"),
        ("{header}u\ta.wav\t7\tHI\n", r":2: expected 5 columns, found 4"),
        ("{header}u\ta.wav\t7.5\tHI\ts\n", r":2: expected a whole number as n_frames, found '7.5'"),
        ("{header}u\ta.wav\t0\tHI\ts\n", r":2: expected at least 1 frame, found 0"),
        ("{header}u\t\t7\tHI\ts\n", r":2: expected an id and a place of audio"),
        ("{header}{line}" + LINE.replace("HI", ""), r":3: u has no transcript, unlike"),
        ("{header}" + LINE.replace("HI", "") + "{line}", r":3: u has a transcript, unlike"),
        ("{header}{line}{line}", "expected unique ids, found several lines of u"),
    ],
)
def test_bad_manifests_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    header = "id\taudio\tn_frames\ttgt_text\tspeaker\n"
    path.write_text(text.format(header=header, line=LINE))
    with pytest.raises(InputError, match=r"bad\.tsv" + ".*" + message.lstrip("r")):
        read_manifest(path)


def test_a_manifest_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such manifest"):
        read_manifest(tmp_path / "none.tsv")
    (tmp_path / "a.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected UTF-8"):
        read_manifest(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"text": "A\tB"}, "tab or line end"),
        ({"audio": "a\nb.wav"}, "tab or line end"),
        ({"text": ""}, "an empty transcript"),
        ({"n_frames": 0}, "at least 1 frame"),
        ({"id": SECOND.id}, "unique ids"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(
    changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        write_manifest(tmp_path / "a.tsv", [replace(FIRST, **changed), SECOND])
    assert list(tmp_path.iterdir()) == []


# --- features ---------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_features_are_the_same_in_a_zip_an_array_and_from_audio(tmp_path: Path) -> None:
    audio = audio_bytes(tone())
    features = log_mel_filterbanks(*read_audio(audio))
    (tmp_path / "a.flac").write_bytes(audio)
    np.save(tmp_path / "a.npy", features)
    folder = tmp_path / "with:colon"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.npy", npy(features))
        archive.writestr("a.flac", audio)
    content = (folder / "a.zip").read_bytes()
    places = [str(tmp_path / "a.flac"), str(tmp_path / "a.npy")]
    for part in (npy(features), audio):
        places.append(f"{folder}/a.zip:{content.index(part)}:{len(part)}")
    for place in places:
        check_place(place)
        assert np.array_equal(load_features(place, rate=16000), features)


def test_places_that_lead_nowhere(tmp_path: Path) -> None:
    data = npy(np.zeros((3, 80), np.float32))
    (tmp_path / "a.zip").write_bytes(data)
    good = f"{tmp_path}/a.zip:0:{len(data)}"
    check_place(good)
    for place, message in [
        (f"{tmp_path}/none.flac", "expected a file, found none"),
        (f"{tmp_path}/none.zip:0:4", "expected a file, found none"),
        (f"{tmp_path}/a.zip:1:{len(data)}", f"from byte 1 on, found a file of {len(data)}"),
        (f"{tmp_path}/a.zip", "OFFSET:LENGTH"),
        (f"{tmp_path}/a.zip:0", "OFFSET:LENGTH"),
        (f"{tmp_path}/a.zip:0:x", "OFFSET:LENGTH"),
    ]:
        for function in (check_place, lambda place: load_features(place, rate=16000)):
            with pytest.raises(InputError, match=message) as caught:
                function(place)
            assert place in str(caught.value)


def test_features_of_another_kind_are_refused(tmp_path: Path) -> None:
    for array, message in [
        (np.zeros((3, 80), np.float64), "float64"),
        (np.zeros((3, 40), np.float32), r"\(3, 40\)"),
        (np.zeros(80, np.float32), r"\(80,\)"),
        (np.array([{}], dtype=object), "damaged array"),
    ]:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(InputError, match=message):
            load_features(str(tmp_path / "a.npy"), rate=16000)
    (tmp_path / "a.npy").write_bytes(npy(np.zeros((3, 80), np.float32))[:-1])
    with pytest.raises(InputError, match="damaged array"):
        load_features(str(tmp_path / "a.npy"), rate=16000)
    (tmp_path / "a.wav").write_bytes(audio_bytes(tone(), 8000, "WAV"))
    with pytest.raises(InputError, match="expected 16000 samples a second, found 8000"):
        load_features(str(tmp_path / "a.wav"), rate=16000)
