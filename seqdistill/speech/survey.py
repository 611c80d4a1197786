"""What a preparation would do, told from the files' headers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqdistill.speech.audio import AudioError
from seqdistill.speech.extras import need
from seqdistill.speech.filterbanks import frame_count
from seqdistill.speech.layout import Listing
from seqdistill.speech.plan import Options, State
from seqdistill.speech.problems import Problem, count_kinds
from seqdistill.speech.shards import Demands, check_length, entry_name, npy_overhead
from seqdistill.speech.zip_files import directory_length, header_length


def survey(options: Options, state: State, listings: dict[str, Listing]) -> dict[str, Any]:
    """Say what there is of each set and what it would become.

    Headers tell the lengths; what is cut short or damaged behind them is found by the real run.
    """
    sets = {
        name: _survey_set(listing, options.demands(name)) | {"is_done": name in state.finished}
        for name, listing in listings.items()
    }
    return {
        "output": str(options.output.absolute()),
        "begun": state.settings is not None,
        "settings": options.settings(),
        "sets": sets,
        "utterances": sum(one["utterances"] for one in sets.values()),
        "hours": round(sum(one["hours"] for one in sets.values()), 4),
        "bytes": sum(one["bytes"] for one in sets.values()),
    }


def _survey_set(listing: Listing, demands: Demands) -> dict[str, Any]:
    problems = list(listing.problems)
    samples = size = utterances = 0
    for one in _lengths(listing, demands):
        if isinstance(one, Problem):
            problems.append(one)
            continue
        name, length = one
        utterances += 1
        samples += length
        if demands.keep_features:
            entry = entry_name(name)
            values = 4 * demands.bins * frame_count(length, demands.rate)
            size += header_length(entry) + npy_overhead(demands.bins) + values
            size += directory_length(entry)
    return {
        "utterances": utterances,
        "hours": round(samples / demands.rate / 3600, 4),
        "bytes": size,
        "has_transcripts": listing.has_transcripts,
        "problems": count_kinds(problems),
    }


def _lengths(listing: Listing, demands: Demands) -> Iterator[tuple[str, int] | Problem]:
    for recording in listing.recordings:
        try:
            yield recording.id, _header(recording.path, demands)
        except AudioError as error:
            yield Problem(listing.name, str(recording.path), error.kind, error.what)


def _header(path: Path, demands: Demands) -> int:
    """Return the number of samples that a file's header promises."""
    soundfile = need("soundfile", "reading audio")
    name = str(path)
    try:
        info = soundfile.info(name)
    except soundfile.LibsndfileError as error:
        kind = "unreadable" if path.stat().st_size else "empty"
        raise AudioError(name, kind, str(error)) from error
    if info.channels != 1:
        raise AudioError(name, "channels", f"expected 1 channel, found {info.channels}")
    if info.samplerate != demands.rate:
        raise AudioError(name, "rate", f"expected {demands.rate}, found {info.samplerate}")
    if not info.frames:
        raise AudioError(name, "empty", "expected audio, found 0 samples")
    check_length(info.frames, demands, name)
    return int(info.frames)
