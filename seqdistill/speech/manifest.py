"""A set's manifest: one line an utterance, in the columns of fairseq's speech_to_text task."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqdistill.errors import InputError
from seqdistill.files import atomic_write

COLUMNS = ("id", "audio", "n_frames", "tgt_text", "speaker")
_NEEDED = COLUMNS[:4]


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest.

    Attributes:
        id: of the utterance, unique in its set.
        audio: where its features or its audio are, see :mod:`seqdistill.speech.features`; relative
            to the configuration's ``audio_root``, or absolute.
        n_frames: of its features, at least 1.
        text: its transcript; None where the set has no transcripts.
        speaker: None where it is not known.
    """

    id: str
    audio: str
    n_frames: int
    text: str | None
    speaker: str | None = None


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest; columns other than ours are passed over.

    Returns:
        Its utterances; either all of them have a text, or none has.

    Raises:
        InputError: the file is missing, or is no manifest; with the line.
    """
    try:
        # Lines end with \n alone: texts may hold other signs that Unicode calls line ends.
        with open(path, encoding="utf-8", newline="\n") as handle:
            lines = [line.rstrip("\n").removesuffix("\r") for line in handle]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such manifest; name a set that prepare-speech made"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, found something else ({error})") from error
    header = lines[0].split("\t") if lines else []
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InputError(
            f"{path}:1: expected the columns {', '.join(_NEEDED)} (tab separated), found no "
            f"{', '.join(missing)}"
        )
    utterances = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != len(header):
            raise InputError(
                f"{path}:{number}: expected {len(header)} columns, found {len(fields)}"
            )
        utterances.append(_utterance(dict(zip(header, fields, strict=True)), f"{path}:{number}"))
    _check(utterances, path)
    return utterances


def write_manifest(path: str | Path, utterances: Sequence[Utterance]) -> None:
    """Write a manifest, whole or not at all.

    Raises:
        InputError: what :func:`read_manifest` would refuse.
    """
    _check(utterances, path)
    with atomic_write(path) as handle:
        handle.write("\t".join(COLUMNS) + "\n")
        for one in utterances:
            fields = (one.id, one.audio, str(one.n_frames), one.text or "", one.speaker or "")
            handle.write("\t".join(fields) + "\n")


def _utterance(fields: dict[str, str], where: str) -> Utterance:
    frames = fields["n_frames"]
    # isdecimal alone lets other scripts' digits through.
    if not (frames.isascii() and frames.isdecimal()):
        raise InputError(f"{where}: expected a whole number as n_frames, found {frames!r}")
    return Utterance(
        id=fields["id"],
        audio=fields["audio"],
        n_frames=int(frames),
        text=fields["tgt_text"] or None,
        speaker=fields.get("speaker") or None,
    )


def _check(utterances: Sequence[Utterance], path: str | Path) -> None:
    if not utterances:
        raise InputError(f"{path}: expected utterances, found none")
    for number, one in enumerate(utterances, start=2):
        where = f"{path}:{number}"
        if not one.id or not one.audio:
            raise InputError(f"{where}: expected an id and a place of audio, found {one}")
        if one.n_frames < 1:
            raise InputError(f"{where}: expected at least 1 frame, found {one.n_frames}")
        for text in (one.id, one.audio, one.text, one.speaker):
            if text is not None and any(sign in text for sign in "\t\n\r"):
                raise InputError(f"{where}: a tab or line end inside {text!r}, which no line has")
        if one.text == "":
            raise InputError(f"{where}: an empty transcript; a set without transcripts has None")
        if (one.text is None) != (utterances[0].text is None):
            raise InputError(
                f"{where}: {one.id} has {'no' if one.text is None else 'a'} transcript, unlike the "
                "lines before; expected transcripts in all lines, or in none"
            )
    repeated = [name for name, count in Counter(u.id for u in utterances).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: expected unique ids, found several lines of {repeated[0]}")
