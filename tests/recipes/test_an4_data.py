"""Data of the speech recipe: digit strings of recordings, tones, and the sets of every domain."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from recipes.an4.data import DataOptions, make_sets, source_files
from recipes.an4.digits import FLOOR, PARTS, WORDS, draw_strings, recording_files
from recipes.an4.tones import STRANGE_VOICE, draw_tones
from recipes.common.audio import RATE, read_split
from recipes.common.config import read_yaml
from recipes.common.recipe import REPOSITORY, find_data_root
from seqdistill.errors import InputError

soundfile = pytest.importorskip("soundfile", reason="needs the extra seqdistill[speech]")
torchaudio = pytest.importorskip("torchaudio", reason="needs the extra seqdistill[speech]")

SPEAKERS = ("ann", "bob")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers' recordings: digit d, number n is a constant of (10 d + n + 1) / 1000."""
    folder = tmp_path_factory.mktemp("recordings")
    for speaker in SPEAKERS:
        for digit in range(10):
            for number in (0, 1, 5, 6, 10, 11, 12):
                value = (10 * digit + number + 1) / 1000
                samples = np.full(800, value, np.float32)
                soundfile.write(folder / f"{digit}_{speaker}_{number}.wav", samples, 8000)
    return folder


def test_parts_share_no_recording(recordings: Path) -> None:
    files = {part: set(recording_files(recordings, part)) for part in PARTS}
    assert {part: len(found) for part, found in files.items()} == {
        "test": 40, "valid": 40, "train": 60,
    }  # fmt: skip
    assert len(set.union(*files.values())) == 140


def test_strings_use_every_recording_as_often_as_asked(recordings: Path) -> None:
    strings = list(draw_strings(recordings, "train", seed=1, uses=2, singles=1))
    counts = Counter(word for one in strings for word in (one.text or "").split())
    # 2 speakers × 3 recordings × (2 uses + 1 alone)
    assert counts == Counter(dict.fromkeys(WORDS, 18))
    alone = [one for one in strings if len((one.text or "").split()) == 1]
    assert len(alone) >= 60
    assert max(len((one.text or "").split()) for one in strings) <= 5
    assert {one.speaker for one in strings} == set(SPEAKERS)


def test_a_string_is_its_recordings_with_silence_between(recordings: Path) -> None:
    for one in draw_strings(recordings, "test", seed=3):
        digits = [WORDS.index(word) for word in (one.text or "").split()]
        # 0.1 s each, and a gap of 0.06 to 0.18 s on both sides of every digit
        gaps = len(one.waveform) / RATE - 0.1 * len(digits)
        assert 0.06 * (len(digits) + 1) - 0.001 <= gaps <= 0.18 * (len(digits) + 1) + 0.001
        # Digit d is at 10 d + 1 or 10 d + 2 thousandths: count the samples near each level.
        levels = np.round((one.waveform * 1000 - 1.5) / 10)
        near = np.abs(one.waveform * 1000 - 1.5 - 10 * levels) < 1.2
        for digit in set(digits) - {0}:
            assert (near & (levels == digit)).sum() > 1300 * digits.count(digit)
    floor = next(iter(draw_strings(recordings, "test", seed=3))).waveform[:900]
    assert 0.8 * FLOOR < floor.std() < 1.2 * FLOOR


def test_strings_are_the_same_for_the_same_seed(recordings: Path) -> None:
    first, again, other = (list(draw_strings(recordings, "valid", seed=seed)) for seed in (1, 1, 2))
    assert [one.text for one in first] == [one.text for one in again]
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(first, again, strict=True))
    assert [one.text for one in first] != [one.text for one in other]


def test_files_that_are_no_recordings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected recordings such as 7_jackson_32.wav"):
        recording_files(tmp_path, "train")
    (tmp_path / "7_jack_son.wav").write_bytes(b"")
    with pytest.raises(InputError, match="expected a name such as"):
        recording_files(tmp_path, "train")


def test_tones() -> None:
    first, again = (list(draw_tones(6, 1, "test")) for _ in range(2))
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(first, again, strict=True))
    assert {one.speaker for one in first} <= {"low", "medium", "high"}
    assert all(1 <= len((one.text or "").split()) <= 4 for one in first)
    assert {one.speaker for one in draw_tones(3, 1, "far", STRANGE_VOICE)} == {"strange"}
    assert max(np.abs(one.waveform).max() for one in first) < 1
    assert source_files(DataOptions(domain="tones")) == []


def test_every_set_of_tones(tmp_path: Path) -> None:
    sets = make_sets(DataOptions(domain="tones", tones=5, limit=3, noise_db=[10]))
    assert set(sets) == {"train", "valid", "test", "strange_voice", "backwards", "noise10"}
    for name, make in sets.items():
        make(tmp_path / name)
    found = {name: list(read_split(tmp_path / name)) for name in sets}
    assert {name: len(rows) for name, rows in found.items()} == {
        "train": 5, "valid": 3, "test": 3, "strange_voice": 3, "backwards": 3, "noise10": 3,
    }  # fmt: skip
    without = {name for name, rows in found.items() if all(one.text is None for one in rows)}
    assert without == {"backwards"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DataOptions(domain="digit", root="x"), "unknown domain digit .* did you mean digits"),
        (DataOptions(domain="digits"), "data.options.root has to name the data folder"),
        (DataOptions(domain="tones", limit=0), "data.options.limit must be at least 1, got 0"),
        (DataOptions(root="x", speeds=[9]), "data.options.speeds must be from 50 to 200"),
        (DataOptions(root="x", singles=-1), "data.options.singles must be at least 0, got -1"),
    ],
)
def test_options_that_make_no_sense(options: DataOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_sets(options)


def test_every_scale_has_sets_that_its_domain_makes() -> None:
    values = read_yaml(REPOSITORY / "recipes" / "an4" / "recipe.yaml")
    assert set(values["scales"]) == {"an4", "tiny"}
    for change in ({}, *values["scales"].values()):
        options = {**values["data"]["options"], **change.get("data", {}).get("options", {})}
        ood = {**values["data"]["ood"], **change.get("data", {}).get("ood", {})}
        wanted = {name for name, what in ood.items() if what is not None}
        options["root"] = options["root"] and "x"
        assert wanted <= set(make_sets(DataOptions(**options)))


@pytest.mark.data
@pytest.mark.parametrize("domain", ["digits", "an4"])
def test_sets_of_real_recordings(tmp_path: Path, domain: str) -> None:
    root = find_data_root(None)
    if not (root / "asr" / "an4").is_dir():
        pytest.skip("no recordings: set SEQDISTILL_DATA_ROOT to the data folder")
    options = DataOptions(domain=domain, root=str(root), limit=4, noise_db=[5])
    sets = make_sets(options)
    names = {"digits": ("an4_digits", "an4_letters"), "an4": ("digits",)}[domain]
    for name in ("valid", "test", "german", "backwards", "noise5", *names):
        sets[name](tmp_path / name)
        found = list(read_split(tmp_path / name))
        assert len(found) == 4
        assert all((one.text is None) == (name in ("german", "backwards")) for one in found)
    if domain == "digits":
        texts = [one.text or "" for one in read_split(tmp_path / "an4_digits")]
        assert set(" ".join(texts).split()) <= set(WORDS)
        texts = [one.text or "" for one in read_split(tmp_path / "an4_letters")]
        assert {len(word) for word in " ".join(texts).split()} == {1}
    assert len(source_files(options)) > 4000
