"""LibriSpeech's layout: ``<split>/<speaker>/<chapter>/<id>.flac`` and ``*.trans.txt`` beside them.

A transcript file has one line an utterance, its id and its words. Everything in a split folder that
looks like audio or transcripts either becomes an utterance or is listed as a problem.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seqdistill.errors import InputError
from seqdistill.speech.problems import Problem

READ = (".flac", ".wav")
#: Audio all the same: to be converted, not to be passed over.
_OTHER_AUDIO = (".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff", ".sph", ".sw")
_TRANSCRIPTS = ".trans.txt"
_DEPTH = 2
#: How far below a split folder misplaced audio is looked for.
_DEEPEST = 4


@dataclass(frozen=True)
class Recording:
    """An audio file that is to become an utterance.

    Attributes:
        id: its name without the suffix.
        path: of the file.
        text: its transcript with single spaces; None in a set without transcripts.
        speaker: the name of the speaker's folder.
        size: bytes.
        modified: nanoseconds since 1970.
    """

    id: str
    path: Path
    text: str | None
    speaker: str
    size: int
    modified: int


@dataclass
class Listing:
    """What was found of a set.

    Attributes:
        name: of the set.
        recordings: sorted by folder, speaker, chapter and id.
        problems: what did not fit together.
        has_transcripts: False if there is no transcript file at all.
    """

    name: str
    recordings: list[Recording] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    has_transcripts: bool = False

    @property
    def files(self) -> int:
        """Utterances and problems: what a share of problems is a share of."""
        return len(self.recordings) + len(self.problems)


@dataclass
class _Found:
    """Files of one split folder, with their places below it."""

    audio: list[tuple[tuple[str, ...], os.DirEntry[str]]] = field(default_factory=list)
    transcripts: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def list_set(name: str, folders: Sequence[str | Path]) -> Listing:
    """Find the utterances of a set.

    Args:
        name: of the set.
        folders: split folders, joined in their order.

    Returns:
        The utterances and what does not fit together. A set without any transcript file is one
        without transcripts; where there is one, every utterance needs its line.

    Raises:
        InputError: a folder is missing or not in this layout.
    """
    listing = Listing(name)
    found = [(Path(folder), _find(Path(folder))) for folder in folders]
    listing.has_transcripts = any(files.transcripts for _, files in found)
    seen: dict[str, Path] = {}
    for folder, files in found:
        _list_folder(folder, files, listing, seen)
    return listing


def _list_folder(folder: Path, files: _Found, listing: Listing, seen: dict[str, Path]) -> None:
    def problem(path: Path | str, kind: str, what: str) -> None:
        listing.problems.append(Problem(listing.name, str(path), kind, what))

    for path in files.others:
        problem(path, "format", f"expected {' or '.join(READ)}; convert it")
    # By chapter and id: the transcript, and where it stands.
    texts: dict[tuple[Path, str], tuple[str, str]] = {}
    for path in files.transcripts:
        _read_transcripts(path, texts, problem)
    used = set()
    for parts, entry in files.audio:
        path = Path(entry.path)
        if len(parts) != _DEPTH + 1:
            problem(path, "layout", f"expected {folder}/<speaker>/<chapter>/{path.name}")
            continue
        if any(sign in part for part in parts for sign in "\t\n\r"):
            problem(path, "layout", "expected names without tabs and line ends")
            continue
        key = (path.parent, path.stem)
        text: str | None = None
        if listing.has_transcripts:
            used.add(key)
            if key not in texts:
                problem(
                    path,
                    "no-transcript",
                    f"expected a line {path.stem} in {path.parent.name}{os.sep}*{_TRANSCRIPTS}, "
                    "found none",
                )
                continue
            text, line = texts[key]
            if not text:
                problem(line, "empty-transcript", f"expected words after {path.stem}, found none")
                continue
        if path.stem in seen:
            problem(path, "duplicate-id", f"expected a new id, found it before: {seen[path.stem]}")
            continue
        try:
            status = entry.stat()
        except OSError as error:
            problem(path, "missing", f"expected a file, found a link to none ({error.strerror})")
            continue
        seen[path.stem] = path
        listing.recordings.append(
            Recording(path.stem, path, text, parts[0], status.st_size, status.st_mtime_ns)
        )
    for key, (_, line) in texts.items():
        if key not in used:
            problem(line, "no-audio", f"expected {key[1]}.flac or .wav beside it, found neither")


def _read_transcripts(
    path: Path,
    texts: dict[tuple[Path, str], tuple[str, str]],
    problem: Callable[[Path | str, str, str], None],
) -> None:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem(path, "unreadable", f"expected UTF-8 text, found something else ({error})")
        return
    # Only \n ends a line: transcripts may hold other signs that Unicode calls line ends.
    for number, line in enumerate(content.split("\n"), start=1):
        words = line.split()
        if not words:
            continue
        key, where = (path.parent, words[0]), f"{path}:{number}"
        if key in texts:
            problem(
                where,
                "duplicate-id",
                f"expected one transcript of {words[0]}, found it before: {texts[key][1]}; the "
                "first is used",
            )
            continue
        texts[key] = (" ".join(words[1:]), where)


def _find(folder: Path) -> _Found:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a split folder in LibriSpeech layout, found "
            f"{'a file' if folder.exists() else 'nothing'}"
        )
    files = _Found()
    for parts, entry in _walk(folder, ()):
        suffix = Path(entry.name).suffix.lower()
        if suffix in READ:
            files.audio.append((parts, entry))
        elif entry.name.endswith(_TRANSCRIPTS):
            files.transcripts.append(Path(entry.path))
        elif suffix in _OTHER_AUDIO:
            files.others.append(Path(entry.path))
    depths = {len(parts) for parts, _ in files.audio}
    if depths and _DEPTH + 1 not in depths:
        below = sorted({parts[0] for parts, _ in files.audio if len(parts) > _DEPTH + 1})
        hint = f"; it has {', '.join(below[:5])}: give one of these" if below else ""
        raise InputError(
            f"{folder}: expected <speaker>/<chapter>/*.flac below it, found audio at another "
            f"depth, such as {files.audio[0][1].path}{hint}"
        )
    return files


def _walk(
    folder: Path | str, above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    """Yield files below a folder in the order of their names; hidden ones are none of ours."""
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        parts = (*above, entry.name)
        if entry.is_dir():
            if len(parts) <= _DEEPEST:
                yield from _walk(entry.path, parts)
        else:
            yield parts, entry
