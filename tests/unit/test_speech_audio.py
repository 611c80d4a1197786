"""Audio is read as it is, and what is damaged is an error; filterbanks are torchaudio's."""

import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqdistill.errors import InputError
from seqdistill.speech import AudioError, frame_count, log_mel_filterbanks, read_audio
from tests.unit.speech_cases import DATA, audio_bytes, needs_data, tone

# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["FLAC", "WAV"])
def test_16_bit_samples_are_read_exactly(form: str, tmp_path: Path) -> None:
    samples = np.array([0, 1, -1, 32767, -32768, 12345], np.int16)
    data = audio_bytes(samples, 8000, form)
    (tmp_path / "a").write_bytes(data)
    for source in (data, tmp_path / "a", str(tmp_path / "a")):
        waveform, rate = read_audio(source, rate=8000)
        assert (waveform.dtype, waveform.shape, rate) == (np.float32, (6,), 8000)
        assert (waveform * 2**15).tolist() == samples.tolist()


def test_other_samples_are_read_as_libsndfile_scales_them() -> None:
    samples = np.array([0, 0.25, -1.5], np.float32)
    waveform, _ = read_audio(audio_bytes(samples, form="WAV", subtype="FLOAT"))
    assert waveform.tolist() == samples.tolist()
    waveform, _ = read_audio(audio_bytes(samples[:2], subtype="PCM_24"))
    assert waveform.tolist() == samples[:2].tolist()


def fails(data: bytes, kind: str, what: str, rate: int | None = None) -> None:
    with pytest.raises(AudioError, match=what) as caught:
        read_audio(data, rate=rate)
    assert caught.value.kind == kind
    assert caught.value.what in str(caught.value)


def test_files_that_are_no_usable_audio(tmp_path: Path) -> None:
    fails(b"", "empty", "0 bytes")
    fails(audio_bytes(tone()[:0], form="WAV"), "empty", "0 samples")
    fails(b"no audio at all" * 20, "unreadable", "expected audio")
    fails(audio_bytes(tone()), "rate", "expected 8000 samples a second, found 16000", 8000)
    fails(audio_bytes(np.stack([tone(), tone()], 1)), "channels", "expected 1 channel, found 2")
    numbers = np.array([0, np.nan], np.float32)
    fails(audio_bytes(numbers, form="WAV", subtype="FLOAT"), "unreadable", "samples that are none")
    with pytest.raises(AudioError, match=r"none\.flac: expected an audio file") as caught:
        read_audio(tmp_path / "none.flac")
    assert caught.value.kind == "missing"
    with pytest.raises(AudioError, match="cannot be read") as caught:
        read_audio(tmp_path)
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize("form", ["FLAC", "WAV"])
def test_no_beginning_of_a_file_is_taken_for_the_whole(form: str) -> None:
    whole = audio_bytes(tone(0.6), form=form)
    for size in [1, 4, 20, 43, 44, 100, len(whole) // 3, len(whole) // 2, len(whole) - 1]:
        with pytest.raises(AudioError) as caught:
            read_audio(whole[:size])
        assert caught.value.kind == "unreadable"


@given(st.integers(0, 10**6))
def test_a_flipped_bit_among_the_samples_of_a_flac_is_noticed(where: int) -> None:
    data = bytearray(audio_bytes(tone(0.3)))
    header = 300  # the metadata blocks; a comment may change and harm nobody
    place = header * 8 + where % (8 * (len(data) - header))
    data[place // 8] ^= 1 << place % 8
    with pytest.raises(AudioError):
        read_audio(bytes(data))


def test_the_samples_of_a_flac_are_compared_with_their_md5() -> None:
    data = bytearray(audio_bytes(tone()))
    data[26] ^= 1  # the MD5 itself: everything else decodes
    fails(bytes(data), "unreadable", "damaged: expected samples of MD5")
    data[26:42] = bytes(16)  # "not computed"
    assert len(read_audio(bytes(data))[0]) == 8000


def test_wav_chunks_before_the_samples_and_streams_are_read() -> None:
    samples = tone(0.1)
    body = samples.astype("<i2").tobytes()
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    note = b"LIST" + struct.pack("<I", 5) + b"hello\0"  # odd: a byte is added
    for length in (len(body), 0xFFFFFFFF):  # the second: written to a pipe
        data = b"WAVE" + form + note + b"data" + struct.pack("<I", length) + body
        waveform, _ = read_audio(b"RIFF" + struct.pack("<I", min(len(data), 2**31)) + data)
        assert (waveform * 2**15).tolist() == samples.tolist()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """In a process of its own, in which the libraries cannot be imported."""
    (tmp_path / "a.wav").write_bytes(audio_bytes(tone(), form="WAV"))
    code = """
import sys
sys.modules[sys.argv[1].partition(".")[0]] = None
sys.modules[sys.argv[1]] = None
from seqdistill.errors import InputError
from seqdistill.speech import load_features
try:
    load_features(sys.argv[2], rate=16000)
except InputError as error:
    print(error)
"""
    for module in ("soundfile", "torchaudio.compliance.kaldi"):
        done = subprocess.run(
            [sys.executable, "-c", code, module, str(tmp_path / "a.wav")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        name = module.partition(".")[0]
        assert f"needs {name}, which is not installed here" in done.stdout
        assert 'pip install "seqdistill[speech]"' in done.stdout


# --- filterbanks --------------------------------------------------------------------------------


def reference(samples: np.ndarray, rate: int, bins: int = 80) -> np.ndarray:
    """Of int16 samples, by torchaudio itself."""
    import torchaudio.compliance.kaldi as kaldi

    waveform = torch.from_numpy(samples.astype(np.float32)).unsqueeze(0)
    return kaldi.fbank(waveform, num_mel_bins=bins, sample_frequency=rate).numpy()


def test_filterbanks_of_made_audio_are_torchaudios() -> None:
    for rate, bins in ((16000, 80), (8000, 40)):
        samples = tone(0.7, rate)
        waveform, _ = read_audio(audio_bytes(samples, rate))
        features = log_mel_filterbanks(waveform, rate, bins)
        assert features.dtype == np.float32
        assert features.shape == (frame_count(len(samples), rate), bins)
        assert np.array_equal(features, reference(samples, rate, bins))


def test_a_louder_voice_has_that_much_more_energy() -> None:
    waveform = tone() / np.float32(2**15)
    difference = log_mel_filterbanks(2 * waveform, 16000) - log_mel_filterbanks(waveform, 16000)
    assert difference == pytest.approx(np.log(4), abs=1e-4)


def test_a_tone_is_loudest_in_the_band_that_its_pitch_is_in() -> None:
    # 80 bands between 20 Hz and 8 kHz, equally far apart in mel = 1127 ln(1 + f/700).
    mel = [1127 * np.log1p(f / 700) for f in (20, 8000, 1000)]
    band = (mel[2] - mel[0]) / (mel[1] - mel[0]) * 81 - 1
    wave_1000 = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32) / 2
    features = log_mel_filterbanks(wave_1000, 16000)
    assert set(features.argmax(axis=1)) == {round(band)}


def test_waveforms_without_a_window_are_refused() -> None:
    assert log_mel_filterbanks(np.zeros(400, np.float32), 16000).shape == (1, 80)
    with pytest.raises(InputError, match="at least one window of 25 ms, got 399 samples"):
        log_mel_filterbanks(np.zeros(399, np.float32), 16000)
    with pytest.raises(InputError, match=r"shape \(2, 400\)"):
        log_mel_filterbanks(np.zeros((2, 400), np.float32), 16000)


@pytest.mark.data
@needs_data
def test_filterbanks_of_real_recordings_are_torchaudios() -> None:
    recordings = sorted((DATA / "fsdd_recordings" / "recordings").glob("*.wav"))
    assert len(recordings) == 3000
    for path in recordings[::150]:
        with wave.open(str(path)) as file:  # not by libsndfile
            rate, count = file.getframerate(), file.getnframes()
            samples = np.frombuffer(file.readframes(count), "<i2")
        waveform, found = read_audio(path, rate=8000)
        assert (found, rate) == (8000, 8000)
        features = log_mel_filterbanks(waveform, rate)
        assert np.array_equal(features, reference(samples, rate))
        assert len(features) == frame_count(count, rate)


@pytest.mark.data
@needs_data
def test_filterbanks_of_real_utterances_are_torchaudios() -> None:
    for corpus in ("an4", "fsdd_strings", "kerstin_de"):
        files = sorted((DATA / corpus / "LibriSpeech").rglob("*.flac"))
        assert files
        for path in files[:: max(1, len(files) // 5)]:
            samples, rate = soundfile.read(path, dtype="int16")
            waveform, _ = read_audio(path, rate=16000)
            assert np.array_equal(log_mel_filterbanks(waveform, rate), reference(samples, rate))
