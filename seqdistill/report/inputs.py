"""What a report is made from, and the manifest or folders that name the files."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqdistill.assessment.forced_sets import ForcedSet, read_forced
from seqdistill.assessment.gradients import GradientProfile
from seqdistill.assessment.hypothesis_files import read_set
from seqdistill.assessment.n_best import TOP, Aggregation, NBest, join_n_best
from seqdistill.assessment.word_alignment import AS_WRITTEN, Normalisation
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis

_SYSTEM_KEYS = {"name", "in_domain", "out_of_domain", "forced", "forced_validation", "scores"}
_MANIFEST_KEYS = {"title", "settings", "system", "training_text", "groups"}

IN_DOMAIN_FILE = "in_domain.jsonl"
FORCED_FILE = "forced.jsonl"
FORCED_VALIDATION_FILE = "forced_validation.jsonl"


@dataclass(frozen=True)
class SystemInput:
    """One system's output. All hypotheses are the best (rank 0) of their sentence.

    Attributes:
        name: how tables call the system.
        in_domain: hypotheses of the in-domain set; with references, quality is reported.
        out_of_domain: name of a set → its hypotheses.
        forced: scored references of the in-domain set, for likelihood and calibration.
        forced_validation: scored references of a validation set, to fit a temperature on.
        scores: further numbers for the table of quality, by column name.
        n_best: what their uncertainty was averaged over; None: that of the best hypotheses.
    """

    name: str
    in_domain: Sequence[Hypothesis]
    out_of_domain: Mapping[str, Sequence[Hypothesis]] = field(default_factory=dict)
    forced: Sequence[Hypothesis] = ()
    forced_validation: ForcedSet | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    n_best: NBest | None = None


@dataclass(frozen=True)
class ReportInput:
    """What a report shows and how it computes it.

    Attributes:
        systems: at least one, of different names.
        title: of the page.
        settings: shown as given: commands, commits, hardware, data.
        measures: shown, in this order; all that a system has when None.
        quality_metric: sentence score of the rejection curves, ``chrf`` or ``bleu``; with ``wer``
            the whole report shows word and character errors instead of BLEU and chrF.
        normalisation: of texts before words are compared.
        resamples: bootstrap resamples of the intervals, 0 for none.
        seed: of the bootstrap.
        examples: sentences shown of each set and system.
        gradients: of the losses by rank, None for none.
        training_text: what the frequency of words is counted in, a sentence a line; None: students
            are not compared with the ensemble by the frequency of words.
        groups: a file of groups of sentences (speakers), likewise; see
            :func:`seqdistill.assessment.groups.read_groups`.
    """

    systems: Sequence[SystemInput]
    title: str = "Uncertainty report"
    settings: Mapping[str, str] = field(default_factory=dict)
    measures: Sequence[str] | None = None
    quality_metric: str = "chrf"
    normalisation: Normalisation = AS_WRITTEN
    resamples: int = 1000
    seed: int = 0
    examples: int = 5
    gradients: GradientProfile | None = None
    training_text: str | Path | None = None
    groups: str | Path | None = None


def read_folder(name: str, folder: str | Path, aggregation: Aggregation = TOP) -> SystemInput:
    """Read a system from a folder of JSONL files.

    ``in_domain.jsonl`` is the in-domain set, ``forced.jsonl`` (if there) its scored references,
    ``forced_validation.jsonl`` (if there) those of a validation set, and every other ``NAME.jsonl``
    an out-of-domain set.

    Raises:
        InputError: there is no such folder, no in-domain file in it, or a file is unusable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with {IN_DOMAIN_FILE} in it")
    if not (folder / IN_DOMAIN_FILE).is_file():
        raise InputError(f"{folder}: there is no {IN_DOMAIN_FILE}; expected the in-domain set")
    special = {IN_DOMAIN_FILE, FORCED_FILE, FORCED_VALIDATION_FILE}
    others = [path for path in sorted(folder.glob("*.jsonl")) if path.name not in special]
    forced, validation = (
        path if path.is_file() else None
        for path in (folder / FORCED_FILE, folder / FORCED_VALIDATION_FILE)
    )
    return read_system(
        name,
        folder / IN_DOMAIN_FILE,
        {path.stem: path for path in others},
        forced=forced,
        forced_validation=validation,
        aggregation=aggregation,
    )


def read_system(
    name: str,
    in_domain: str | Path,
    out_of_domain: Mapping[str, str | Path],
    *,
    forced: str | Path | None = None,
    forced_validation: str | Path | None = None,
    scores: Mapping[str, float] | None = None,
    aggregation: Aggregation = TOP,
) -> SystemInput:
    """Read a system from its files; ``aggregation`` is that of its measures over n-best lists.

    Raises:
        InputError: a file is unusable, or a validation set is that of no other set.
    """
    if forced_validation is not None:
        _check_validation(forced_validation, forced)
    test = read_set(in_domain, aggregation)
    others = {set_name: read_set(path, aggregation) for set_name, path in out_of_domain.items()}
    return SystemInput(
        name=name,
        in_domain=test.hypotheses,
        out_of_domain={set_name: one.hypotheses for set_name, one in others.items()},
        n_best=join_n_best({one.path: one.n_best for one in (test, *others.values())}),
        forced=() if forced is None else read_forced(forced).source.hypotheses,
        forced_validation=None if forced_validation is None else read_forced(forced_validation),
        scores=dict(scores or {}),
    )


def _check_validation(validation: str | Path, forced: str | Path | None) -> None:
    if forced is None:
        raise InputError(
            f"{validation}: scored references of a validation set are for calibration at a "
            "temperature, and there are no scored references to assess"
        )
    if Path(validation).resolve() == Path(forced).resolve():
        raise InputError(
            f"{forced}: a temperature fitted on the set that is assessed says nothing about "
            "calibration; give the scored references of a validation set"
        )


def read_manifest(
    path: str | Path, aggregation: Aggregation = TOP
) -> tuple[list[SystemInput], str | None, dict[str, str]]:
    """Read systems, title and settings from a TOML or JSON manifest.

    Paths in it are relative to the manifest::

        title = "Tatoeba English-German"
        training_text = "text/train.de"               # optional: students by frequency of words
        groups = "speakers.tsv"                       # optional: students by given groups

        [settings]
        commit = "1a2b3c"

        [[system]]
        name = "ensemble of 5"
        in_domain = "ensemble/test.jsonl"
        forced = "ensemble/forced.jsonl"              # optional: likelihood and calibration
        forced_validation = "ensemble/valid.jsonl"    # optional: calibration at a temperature
        out_of_domain = { news = "ensemble/news.jsonl" }
        scores = { "sentences/s" = 3.1 }              # optional: further columns

    Returns:
        The systems, the title (None when the manifest has none) and the settings.

    Raises:
        InputError: the manifest or a file that it names is unusable; the place is named.
    """
    path = Path(path)
    manifest = _decode(path)
    _only_known(manifest, _MANIFEST_KEYS, str(path))
    entries = manifest.get("system")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected at least one [[system]]")
    systems = [
        _read_entry(path, number, entry, aggregation)
        for number, entry in enumerate(entries, start=1)
    ]
    title = manifest.get("title")
    settings = _table(manifest, "settings", str(path))
    return systems, title, {key: str(value) for key, value in settings.items()}


def read_group_files(path: str | Path) -> dict[str, Path]:
    """Return ``training_text`` and ``groups`` of a manifest, those that it names.

    Raises:
        InputError: the manifest is unusable, or one of them is no path.
    """
    path = Path(path)
    manifest = _decode(path)
    found = {key: manifest[key] for key in ("training_text", "groups") if key in manifest}
    for key, value in found.items():
        if not isinstance(value, str):
            raise InputError(f"{path}: {key!r} must be a path, got {value!r}")
    return {key: path.parent / value for key, value in found.items()}


def _read_entry(path: Path, number: int, entry: Any, aggregation: Aggregation) -> SystemInput:
    place = f"{path}: system {number}"
    if not isinstance(entry, dict):
        raise InputError(f"{place}: expected a table, got {type(entry).__name__}")
    _only_known(entry, _SYSTEM_KEYS, place)
    for key in ("name", "in_domain"):
        if not isinstance(entry.get(key), str):
            raise InputError(f"{place}: expected a text {key!r}, got {entry.get(key)!r}")
    sets, scores = (_table(entry, key, place) for key in ("out_of_domain", "scores"))
    for key, value in scores.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{place}: the score {key!r} must be a number, got {value!r}")
    for key, value in sets.items():
        if not isinstance(value, str):
            raise InputError(f"{place}: the set {key!r} must be a path, got {value!r}")
    forced = {key: entry.get(key) for key in ("forced", "forced_validation")}
    for key, value in forced.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{place}: {key!r} must be a path, got {value!r}")
    return read_system(
        entry["name"],
        path.parent / entry["in_domain"],
        {key: path.parent / value for key, value in sets.items()},
        forced=None if forced["forced"] is None else path.parent / forced["forced"],
        forced_validation=None
        if forced["forced_validation"] is None
        else path.parent / forced["forced_validation"],
        scores=scores,
        aggregation=aggregation,
    )


def _decode(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a manifest in TOML or JSON")
    text = path.read_text(encoding="utf-8")
    try:
        manifest = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{path}: expected an object, got {type(manifest).__name__}")
    return manifest


def _table(parent: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
    table = parent.get(key, {})
    if not isinstance(table, dict):
        raise InputError(f"{place}: {key!r} must be a table, got {type(table).__name__}")
    return table


def _only_known(table: Mapping[str, Any], known: set[str], place: str) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise InputError(
            f"{place}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
