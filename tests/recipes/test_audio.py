"""Audio of speech recipes: LibriSpeech's layout written and read, changed copies, listings."""

import json
from pathlib import Path

import numpy as np
import pytest

from recipes.common.audio import (
    Spoken,
    at_speeds,
    backwards,
    describe,
    link_split,
    main,
    noisy,
    read_split,
    without_text,
    write_split,
)
from recipes.demo.data import DataOptions
from seqdistill.errors import InputError

pytest.importorskip("soundfile", reason="needs the extra seqdistill[speech]")


def spoken(text: str | None = "ONE", speaker: str = "ann", samples: int = 400) -> Spoken:
    generator = np.random.default_rng(samples)
    # Values that 16 bits hold exactly.
    waveform = generator.integers(-(2**15), 2**15, samples).astype(np.float32) / 2**15
    waveform[waveform == -1] = 0
    return Spoken(speaker, waveform, text)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    utterances = [spoken("ONE TWO"), spoken("THREE", samples=500), spoken("SIX", "bob")]
    write_split(tmp_path / "train", utterances)
    assert (tmp_path / "train" / "ann" / "1" / "ann-1-00001.flac").is_file()
    lines = (tmp_path / "train" / "ann" / "1" / "ann-1.trans.txt").read_text().splitlines()
    assert lines == ["ann-1-00000 ONE TWO", "ann-1-00001 THREE"]
    for one, other in zip(utterances, read_split(tmp_path / "train"), strict=True):
        assert (one.speaker, one.text) == (other.speaker, other.text)
        np.testing.assert_array_equal(one.waveform, other.waveform)


def test_what_is_too_loud_becomes_quieter_as_a_whole(tmp_path: Path) -> None:
    loud = np.array([0.5, -2.0, 1.0, 0.0], np.float32)
    write_split(tmp_path / "set", [Spoken("ann", loud, None)])
    (read,) = read_split(tmp_path / "set")
    assert read.text is None
    np.testing.assert_allclose(read.waveform, loud / 2, atol=2 / 2**15)


def test_a_set_is_not_empty_and_has_all_transcripts_or_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no utterances"):
        write_split(tmp_path / "empty", [])
    with pytest.raises(InputError, match="either all utterances have a transcript"):
        write_split(tmp_path / "some", [spoken("ONE"), spoken(None)])


def test_a_folder_that_does_not_fit_together_is_an_error(tmp_path: Path) -> None:
    write_split(tmp_path / "set", [spoken("ONE"), spoken("TWO")])
    (tmp_path / "set" / "ann" / "1" / "ann-1-00001.flac").unlink()
    with pytest.raises(InputError, match="1 such problem"):
        list(read_split(tmp_path / "set"))


def test_changed_copies(tmp_path: Path) -> None:
    clean = [spoken("ONE"), spoken("TWO", samples=999)]
    noisy(lambda: clean, 10, seed=1)(tmp_path / "noise")
    backwards(lambda: clean)(tmp_path / "backwards")
    without_text(lambda: clean)(tmp_path / "plain")
    for one, copy in zip(clean, read_split(tmp_path / "noise"), strict=True):
        assert copy.text == one.text
        # Up to one factor (loud copies are scaled) the copy is the waveform and noise at 10 dB.
        factor = (copy.waveform @ one.waveform) / (one.waveform @ one.waveform)
        noise = copy.waveform / factor - one.waveform
        ratio = np.square(one.waveform).sum() / np.square(noise).sum()
        assert 10 * np.log10(ratio) == pytest.approx(10, abs=0.7)
    for one, copy in zip(clean, read_split(tmp_path / "backwards"), strict=True):
        assert copy.text is None
        np.testing.assert_array_equal(copy.waveform, one.waveform[::-1])
    for one, copy in zip(clean, read_split(tmp_path / "plain"), strict=True):
        assert copy.text is None
        np.testing.assert_array_equal(copy.waveform, one.waveform)


def test_copies_at_other_speeds() -> None:
    time = np.arange(16_000, dtype=np.float32) / 16_000
    tone = Spoken("ann", np.sin(2 * np.pi * 1000 * time).astype(np.float32), "ONE")
    plain, fast, slow = at_speeds([tone], [125, 80])
    assert plain is tone
    assert (fast.speaker, slow.speaker, fast.text) == ("annx125", "annx80", "ONE")
    for copy, speed in ((fast, 1.25), (slow, 0.8)):
        assert len(copy.waveform) == round(16_000 / speed)
        spectrum = np.abs(np.fft.rfft(copy.waveform))
        hertz = spectrum.argmax() * 16_000 / len(copy.waveform)
        assert hertz == pytest.approx(1000 * speed, abs=2)


def test_a_link_is_described_by_what_it_leads_to(tmp_path: Path) -> None:
    write_split(tmp_path / "here", [spoken("ONE")])
    link_split(tmp_path / "here")(tmp_path / "link")
    assert describe(tmp_path / "link") == describe(tmp_path / "here")
    assert describe(tmp_path / "link")["files"] == 2
    write_split(tmp_path / "other", [spoken("TWO")])
    assert describe(tmp_path / "other")["sha256"] != describe(tmp_path / "here")["sha256"]
    with pytest.raises(InputError, match="no such folder"):
        link_split(tmp_path / "nowhere")(tmp_path / "again")


def test_the_command_line_writes_the_sets_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make_sets(options: DataOptions) -> dict[str, object]:
        assert options.seed == 4
        return {
            name: (lambda folder: write_split(folder, [spoken("ONE")])) for name in ("train", "far")
        }

    given = ["--options", '{"seed": 4}', "--output", str(tmp_path / "audio"), "--sets"]
    main(DataOptions, make_sets, [*given, "far"])  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "audio").iterdir()) == ["far", "far.json"]
    record = json.loads((tmp_path / "audio" / "far.json").read_text())
    assert record == describe(tmp_path / "audio" / "far")
    with pytest.raises(SystemExit) as stop:
        main(DataOptions, make_sets, [*given, "near"])  # type: ignore[arg-type]
    assert stop.value.code == 1
    assert "unknown set near in data.ood" in capsys.readouterr().err
