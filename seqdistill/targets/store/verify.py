"""A store's files against what was written: sizes, sums, and each sentence of a bad shard."""

from collections.abc import Iterator
from pathlib import Path

from seqdistill.errors import InputError
from seqdistill.targets.store.reader import file_problem, read_manifest, store_files
from seqdistill.targets.store.settings import StorePlan
from seqdistill.targets.store.shards import REPAIR, Shard

# Of a shard with more bad sentences than this, the rest are counted.
_LISTED = 10


def verify(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Compare every file of a store with its size and SHA-256; find the bad sentences of bad ones.

    Args:
        folder: of the store.

    Yields:
        Each file's name, and what is wrong with it, nothing if it is whole.

    Raises:
        InputError: there is no finished store, or its manifest is damaged.
    """
    folder = Path(folder)
    plan, manifest = read_manifest(folder)
    for entry in store_files(manifest):
        problem = file_problem(folder / entry["file"], entry, contents=True)
        problems = [problem] if problem else []
        if problem and "shard" in entry and (folder / entry["file"]).is_file():
            problems += _bad_sentences(folder / entry["file"], plan, entry["shard"])
        yield str(entry["file"]), problems


def _bad_sentences(path: Path, plan: StorePlan, index: int) -> list[str]:
    try:
        shard = Shard(path, plan, index)
    except InputError as error:
        return [str(error)]
    bad = []
    for sentence in shard.sentences:
        try:
            shard.rows(sentence)
        except InputError as error:
            bad.append((sentence, str(error)))
    if not bad:
        return [
            f"{path}: every sentence is whole; the damage is in the header, the places of the "
            f"sentences or the sums of the prior; {REPAIR}"
        ]
    lines = [message for _, message in bad[:_LISTED]]
    if len(bad) > _LISTED:
        lines.append(f"{path}: and {len(bad) - _LISTED} more sentences")
    return lines
