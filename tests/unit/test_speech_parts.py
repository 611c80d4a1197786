"""CMVN's statistics, noise, zips, pieces and SpecAugment's policies."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from seqdistill.errors import InputError
from seqdistill.speech import pieces
from seqdistill.speech.cmvn import Moments, merge_all
from seqdistill.speech.configuration import POLICIES, config_yaml, resolve_policy
from seqdistill.speech.noise import add_noise
from seqdistill.speech.zip_files import Entry, directory, header_length, local_header
from tests.reference.speech import mean_and_deviation, signal_to_noise

# --- CMVN -------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_moments_are_those_of_all_frames_at_once(lengths: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    utterances = [generator.normal(8, 3, (n, 2)).astype(np.float32) for n in lengths]
    mean, std = merge_all(map(Moments.of, utterances), 2).statistics()
    assert (mean.dtype, std.dtype) == (np.float32, np.float32)
    frames = np.concatenate(utterances).astype(float)
    for band in range(2):
        expected = mean_and_deviation(frames[:, band].tolist())
        assert (mean[band], std[band]) == pytest.approx(
            (expected[0], expected[1] if len(frames) > 1 else 1), rel=1e-6
        )


def test_moments_do_not_cancel() -> None:
    # Beside 2^14, float32 has steps of 2^-9; the deviation is about two of them.
    generator = np.random.default_rng(1)
    steps = generator.integers(-3, 4, (40, 50, 1))
    utterances = [(2**14 + part * 2.0**-9).astype(np.float32) for part in steps]
    _, std = merge_all(map(Moments.of, utterances), 1).statistics()
    frames = np.concatenate(utterances).ravel()
    _, expected = mean_and_deviation(frames.tolist())
    assert std[0] == pytest.approx(expected, rel=1e-6)
    # What E[x²] − E[x]² makes of it, in single precision: nothing.
    naive = np.square(frames).mean() - frames.mean() ** 2
    assert naive != pytest.approx(expected**2, rel=0.5)


def test_a_band_that_never_varies_becomes_zero() -> None:
    features = np.stack([np.full(7, -15.9), np.arange(7)], 1).astype(np.float32)
    mean, std = Moments.of(features).statistics()
    assert std.tolist() == [1, 2]
    assert ((features - mean) / std)[:, 0].tolist() == [0] * 7


def test_moments_survive_json_to_the_last_bit() -> None:
    moments = Moments.of(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    again = Moments.from_dict(moments.to_dict())
    assert again.count == 5
    assert np.array_equal(again.mean, moments.mean)
    assert np.array_equal(again.squares, moments.squares)


# --- noise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("snr", [-5, 0, 20])
def test_the_ratio_is_exact_and_the_seed_decides(kind: str, snr: float) -> None:
    clean = (0.1 * np.sin(np.arange(4001) / 9)).astype(np.float32)
    before = clean.copy()
    noisy = add_noise(clean, snr, 3, kind)
    assert noisy.dtype == np.float32
    assert np.array_equal(clean, before)
    assert signal_to_noise(clean.tolist(), noisy.tolist()) == pytest.approx(snr, abs=1e-4)
    assert np.array_equal(noisy, add_noise(clean, snr, 3, kind))
    assert not np.array_equal(noisy, add_noise(clean, snr, 4, kind))


def test_colours() -> None:
    """White: an octave has twice the power of the one below; pink: as much."""
    clean = np.ones(1 << 17, np.float32)
    for kind, expected in (("white", 2.0), ("pink", 1.0)):
        noise = add_noise(clean, 0, 1, kind).astype(float) - clean
        power = np.abs(np.fft.rfft(noise)) ** 2
        octaves = [power[1 << k : 2 << k].sum() for k in range(10, 16)]
        ratios = np.divide(octaves[1:], octaves[:-1])
        assert ratios == pytest.approx([expected] * 5, rel=0.15)


def test_noise_that_cannot_be() -> None:
    for waveform, snr, kind, message in [
        (np.zeros(5, np.float32), 0, "white", "silent"),
        (np.zeros(0, np.float32), 0, "white", "silent"),
        (np.ones((1, 5), np.float32), 0, "white", r"shape \(1, 5\)"),
        (np.ones(5, np.float32), 0, "brown", "white, pink, got 'brown'"),
        (np.ones(5, np.float32), float("nan"), "white", "got nan"),
    ]:
        with pytest.raises(InputError, match=message):
            add_noise(waveform, snr, 0, kind)
    assert len(add_noise(np.ones(1, np.float32), 0, 0, "pink")) == 1


# --- zips -------------------------------------------------------------------------------------


def test_pythons_zipfile_reads_what_is_joined() -> None:
    contents = {f"ü{n}.npy": bytes([n]) * n for n in range(1, 6)}
    body, entries = b"", []
    for name, data in contents.items():
        entries.append(Entry(name, zlib.crc32(data), len(data), len(body)))
        body += local_header(name, data) + data
    whole = body + directory(entries, len(body))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(contents)
        for entry in entries:
            data = contents[entry.name]
            assert archive.read(entry.name) == data
            assert whole[entry.data_offset : entry.data_offset + entry.size] == data
            assert archive.getinfo(entry.name).compress_type == zipfile.ZIP_STORED


def test_zips_beyond_four_gigabytes(tmp_path: Path) -> None:
    """A file with a hole: 5 GiB to read from, some bytes on the disk."""
    far, data = 5 << 30, b"features" * 9
    entries = []
    path = tmp_path / "big.zip"
    with open(path, "wb") as handle:
        for name, offset in (("first.npy", 0), ("far.npy", far)):
            handle.seek(offset)
            handle.write(local_header(name, data) + data)
            entries.append(Entry(name, zlib.crc32(data), len(data), offset))
        handle.write(directory(entries, handle.tell()))
    assert path.stat().st_blocks * 512 < 1 << 20
    with zipfile.ZipFile(path) as archive:
        assert [archive.read(name) for name in ("first.npy", "far.npy")] == [data, data]
        assert archive.getinfo("far.npy").header_offset == far


def test_zips_of_very_many_files() -> None:
    body, entries = io.BytesIO(), []
    for number in range(66_000):
        name = f"{number}.npy"
        entries.append(Entry(name, zlib.crc32(b"x"), 1, body.tell()))
        body.write(local_header(name, b"x") + b"x")
    body.write(directory(entries, body.tell()))
    with zipfile.ZipFile(body) as archive:
        assert len(archive.namelist()) == 66_000
        assert archive.read("65999.npy") == b"x"
    assert entries[1].offset == header_length("0.npy") + 1


# --- pieces -----------------------------------------------------------------------------------

TEXTS = ["ONE TWO THREE", "FOUR FIVE SIX", "SEVEN EIGHT NINE ZERO", "GO STOP YES NO"] * 5


@pytest.mark.parametrize(("kind", "size"), [("unigram", 24), ("bpe", 40), ("char", 500)])
def test_trained_pieces(kind: str, size: int) -> None:
    model = pieces.train_pieces(TEXTS, size, kind)
    encoded = pieces.encode(model, TEXTS)
    assert ["".join(row).replace("▁", " ").strip() for row in encoded] == TEXTS
    dictionary = pieces.dictionary_text(model, encoded)
    rows = [line.rpartition(" ") for line in dictionary.splitlines()]
    characters = {"▁", *"".join(TEXTS).replace(" ", "")}
    assert len(rows) == (len(characters) if kind == "char" else size - 4)
    assert sum(int(count) for _, _, count in rows) == sum(map(len, encoded))
    assert not {"<s>", "<pad>", "</s>", "<unk>"} & {piece for piece, _, _ in rows}
    assert pieces.count_unknown(dictionary, encoded) == (0, sum(map(len, encoded)))
    assert pieces.count_unknown(dictionary, pieces.encode(model, ["ÄÖ ONE"]))[0] == 1
    assert pieces.train_pieces(TEXTS, size, kind) == model


def test_fairseq_numbers_the_pieces_as_the_model_does(tmp_path: Path) -> None:
    from fairseq.data import Dictionary
    from sentencepiece import SentencePieceProcessor

    model = pieces.train_pieces(TEXTS, 24, "unigram")
    (tmp_path / "dict.txt").write_text(pieces.dictionary_text(model, []))
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    processor = SentencePieceProcessor(model_proto=model)
    assert dictionary.symbols == [processor.id_to_piece(n) for n in range(24)]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_too_many_pieces_say_how_many_there_can_be(kind: str) -> None:
    with pytest.raises(InputError, match=rf"--pieces 5000: .* at most \d+ {kind} pieces") as caught:
        pieces.train_pieces(TEXTS, 5000, kind)
    most = int(str(caught.value).split("choose --pieces ")[1].split()[0])
    assert len(pieces.dictionary_text(pieces.train_pieces(TEXTS, most, kind), []).splitlines()) == (
        most - 4
    )
    with pytest.raises(InputError, match=f"at most {most} "):
        pieces.train_pieces(TEXTS, most + 1, kind)


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
def test_too_few_pieces_say_how_many_there_must_be(kind: str) -> None:
    characters = len({"▁", *"".join(TEXTS).replace(" ", "")}) + 4
    with pytest.raises(InputError, match=f"--pieces 9: expected at least {characters},"):
        pieces.train_pieces(TEXTS, 9, kind)


def test_given_models_and_dictionaries(tmp_path: Path) -> None:
    path = tmp_path / "given"
    with pytest.raises(InputError, match="expected a sentencepiece model"):
        pieces.read_model(path)
    with pytest.raises(InputError, match="expected fairseq's dictionary"):
        pieces.read_dictionary(path)
    path.write_text("▁A 3\nB\n")
    with pytest.raises(InputError, match="given: expected a sentencepiece model"):
        pieces.read_model(path)
    with pytest.raises(InputError, match=r"given:2: expected '<piece> <count>', found 'B'"):
        pieces.read_dictionary(path)
    path.write_text("▁A 3\nB 0\n")
    assert pieces.count_unknown(pieces.read_dictionary(path), [["▁A", "C"], ["B"]]) == (1, 3)


def test_long_transcripts_are_not_passed_over() -> None:
    long = " ".join(["QUIZ"] * 1200)  # more than sentencepiece's own limit
    model = pieces.train_pieces([*TEXTS, long], 500, "char")
    assert "Q " in pieces.dictionary_text(model, [])


# --- SpecAugment and the configuration --------------------------------------------------------


def test_the_papers_policies() -> None:
    """Park et al. 2019, table 1: W aside, F, m_F, T, p, m_T."""
    table = {"lb": (27, 1, 100, 1.0, 1), "ld": (27, 2, 100, 1.0, 2),
             "sm": (15, 2, 70, 0.2, 2), "ss": (27, 2, 70, 0.2, 2)}  # fmt: skip
    keys = ("freq_mask_F", "freq_mask_N", "time_mask_T", "time_mask_p", "time_mask_N")
    assert {name: tuple(POLICIES[name][key] for key in keys) for name in POLICIES} == table
    assert resolve_policy("none", 80) is None
    assert resolve_policy("ld", 80) == POLICIES["ld"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "found no such file"),
        ("a: [", "expected YAML"),
        ("- 1", "expected keys out of"),
        ("{}", "expected keys out of"),
        ("freq_mask_n: 2", "found 'freq_mask_n'"),
        ("freq_mask_N: 1.5", "found 1.5"),
        ("freq_mask_N: true", "found True"),
        ("freq_mask_N: -1", "found -1"),
        ("freq_mask_N: 2", "freq_mask_F has to be at least 1, at most 80; found 0"),
        ("{freq_mask_N: 1, freq_mask_F: 81}", "at most 80; found 81"),
        ("{time_mask_N: 1, time_mask_p: 1}", "time_mask_T has to be at least 1; found 0"),
        ("{time_mask_N: 1, time_mask_T: 9}", "time_mask_p: expected a share"),
        ("{time_mask_N: 1, time_mask_T: 9, time_mask_p: 1.5}", "found 1.5"),
    ],
)
def test_policies_that_are_none(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        resolve_policy(str(path), 80)


def test_own_policies_are_what_fairseq_masks_with(tmp_path: Path) -> None:
    from fairseq.data.audio.data_cfg import S2TDataConfig
    from fairseq.data.audio.feature_transforms import CompositeAudioFeatureTransform

    path = tmp_path / "policy.yaml"
    own = {"freq_mask_N": 1, "freq_mask_F": 9, "mask_value": -1}
    for content in (own, {"specaugment": own, "bpe_tokenizer": {"bpe": None}}):
        path.write_text(yaml.safe_dump(content))
        policy = resolve_policy(str(path), 80)
    assert policy == own | {"time_warp_W": 0, "time_mask_N": 0, "time_mask_T": 0, "time_mask_p": 0}

    np.savez(tmp_path / "gcmvn.npz", mean=np.ones(80, np.float32), std=np.full(80, 2, np.float32))
    for cmvn in ("none", "utterance", "global"):
        text = config_yaml(tmp_path, rate=8000, bins=80, cmvn=cmvn, specaugment=policy)
        (tmp_path / "config.yaml").write_text(text)
        config = S2TDataConfig(tmp_path / "config.yaml")
        assert (config.sample_rate, config.input_feat_per_channel) == (8000, 80)
        assert Path(config.audio_root) == tmp_path.resolve()
        read = CompositeAudioFeatureTransform.from_config_dict
        features = np.random.default_rng(0).normal(3, 2, (40, 80)).astype(np.float32)
        clean = read(config.get_feature_transforms("test", False))(features)
        if cmvn == "utterance":
            assert clean.mean(axis=0) == pytest.approx(np.zeros(80), abs=1e-5)
        else:
            assert np.array_equal(clean, features if cmvn == "none" else (features - 1) / 2)
        np.random.seed(1)
        masked = read(config.get_feature_transforms("train", True))(features)
        differs = (masked != clean).any(axis=0)
        assert 1 <= differs.sum() < 9
        assert set(masked[:, differs].ravel()) == {-1}
