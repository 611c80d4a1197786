"""Audio of the recipe: what is recognised, what lies outside it, and noise over the test set."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from recipes.an4.digits import WORDS, draw_strings
from recipes.an4.tones import STRANGE_VOICE, draw_tones
from recipes.common.audio import (
    SetMaker,
    Spoken,
    at_speeds,
    backwards,
    link_split,
    main,
    noisy,
    read_split,
    without_text,
    write_split,
)
from recipes.common.config import unknown
from seqdistill.errors import InputError

DOMAINS = ("digits", "an4", "tones")
AN4, GERMAN, RECORDINGS = (
    "an4/LibriSpeech", "kerstin_de/LibriSpeech/ood-german", "fsdd_recordings/recordings"
)  # fmt: skip
TONES = 50
"""Strings of tones in a set that is not for training, where ``limit`` does not say."""

Utterances = Callable[[], Iterable[Spoken]]


@dataclass(frozen=True)
class DataOptions:
    """Options under ``data.options`` of the recipe.

    Attributes:
        domain: what is recognised: ``digits`` (joined recordings of FSDD), ``an4`` (read letters,
            digits and words) or ``tones`` (made up; needs no data folder).
        root: the data folder, which holds ``asr/an4`` and the others; tones need none.
        uses: how often each training recording of a digit is used in strings.
        singles: how often it is used alone, too.
        test_uses: how often each recording of a digit for validation or testing is used.
        tones: training strings of the domain ``tones``.
        speeds: of AN4: every training utterance comes again at these speeds, in per cent.
        noise_db: signal-to-noise ratios in decibels; each gives a noisy copy of the test set.
        noise: ``white`` or ``pink``.
        limit: utterances of every set that is not for training; None: all there are.
        seed: of strings and noise.
    """

    domain: str = "digits"
    root: str | None = None
    uses: int = 4
    singles: int = 1
    test_uses: int = 4
    tones: int = 200
    speeds: list[int] = field(default_factory=list)
    noise_db: list[int] = field(default_factory=lambda: [20, 10, 5, 0])
    noise: str = "white"
    limit: int | None = None
    seed: int = 1


def make_sets(options: DataOptions) -> dict[str, SetMaker]:
    """Return how every set of the domain is made.

    Raises:
        InputError: the domain is unknown, or a number makes no sense.
    """
    if options.domain not in DOMAINS:
        raise unknown("domain", options.domain, DOMAINS, "data.options.domain")
    for name, least in {"uses": 1, "singles": 0, "test_uses": 1, "tones": 1, "limit": 1}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"data.options.{name} must be at least {least}, got {value}")
    if any(not 50 <= speed <= 200 for speed in options.speeds):
        raise InputError(f"data.options.speeds must be from 50 to 200 (%), got {options.speeds}")
    sets, test = {"digits": _digits, "an4": _an4, "tones": _tones}[options.domain](options)
    sets["backwards"] = backwards(test)
    for snr in options.noise_db:
        sets[f"noise{snr}"] = noisy(test, snr, options.seed, options.noise)
    return sets


def source_files(options: DataOptions) -> list[Path]:
    """Return every file that the audio is made from; none for tones."""
    if options.domain == "tones":
        return []
    patterns = {RECORDINGS: "*.wav", AN4: "*/*/*/*.*", GERMAN: "*/*/*.*"}
    found = [sorted(_folder(options, name).glob(pattern)) for name, pattern in patterns.items()]
    return [path for paths in found for path in paths]


def _digits(options: DataOptions) -> tuple[dict[str, SetMaker], Utterances]:
    """Digit strings; outside: digits that others say, spelled words, German."""
    draw = partial(draw_strings, _folder(options, RECORDINGS), seed=options.seed)
    test = _first(options, partial(draw, "test", uses=options.test_uses))
    train = partial(draw, "train", uses=options.uses, singles=options.singles)
    an4 = [_folder(options, AN4) / f"{part}-an4" for part in ("test", "dev", "train")]

    def of_an4(is_wanted: Callable[[str], bool]) -> Utterances:
        def utterances() -> Iterator[Spoken]:
            for part in an4:
                for one in read_split(part):
                    if one.text is not None and all(map(is_wanted, one.text.split())):
                        yield one

        return _first(options, utterances)

    return {
        "train": _written(train),
        "valid": _written(_first(options, partial(draw, "valid", uses=options.test_uses))),
        "test": _written(test),
        "an4_digits": _written(of_an4(WORDS.__contains__)),
        "an4_letters": _written(of_an4(lambda word: len(word) == 1)),
        "german": _german(options),
    }, test


def _an4(options: DataOptions) -> tuple[dict[str, SetMaker], Utterances]:
    """AN4 as it is; outside: digit strings, German."""
    folder = _folder(options, AN4)
    test = _first(options, partial(read_split, folder / "test-an4"))
    digits = partial(draw_strings, _folder(options, RECORDINGS), "test", seed=options.seed, uses=1)
    train = folder / "train-an4"
    faster = _written(lambda: at_speeds(read_split(train), options.speeds))
    return {
        "train": faster if options.speeds else link_split(train),
        "valid": _written(_first(options, partial(read_split, folder / "dev-an4"))),
        "test": _written(test),
        "digits": _written(_first(options, digits)),
        "german": _german(options),
    }, test


def _tones(options: DataOptions) -> tuple[dict[str, SetMaker], Utterances]:
    """Strings of tones; outside: a voice far above those of training."""
    count = TONES if options.limit is None else options.limit
    draw = partial(draw_tones, seed=options.seed)
    test = partial(draw, count, part="test")
    return {
        "train": _written(partial(draw, options.tones, part="train")),
        "valid": _written(partial(draw, count, part="valid")),
        "test": _written(test),
        "strange_voice": _written(partial(draw, count, part="strange", voices=STRANGE_VOICE)),
    }, test


def _folder(options: DataOptions, name: str) -> Path:
    if options.root is None:
        raise InputError(f"data.options.root has to name the data folder for {options.domain}")
    return Path(options.root) / "asr" / name


def _first(options: DataOptions, utterances: Utterances) -> Utterances:
    return lambda: islice(utterances(), options.limit)


def _written(utterances: Utterances) -> SetMaker:
    return lambda folder: write_split(folder, utterances())


def _german(options: DataOptions) -> SetMaker:
    """German has no transcripts here: nothing that could be recognised is said."""
    return without_text(_first(options, partial(read_split, _folder(options, GERMAN))))


if __name__ == "__main__":
    main(DataOptions, make_sets)
