"""The folders of shards beside the pointers: a new one for each save, none that nobody names."""

import os
import shutil
from pathlib import Path

from seqdistill.errors import InputError
from seqdistill.files import remove_parts, sync_folder
from seqdistill.integrations.deepspeed.pointers import SHARDS, read_pointer

#: In the folder of shards: those in DeepSpeed's universal form, under the same names.
UNIVERSAL = "universal"


def new_tag(save_dir: Path, updates: int) -> str:
    """Return the name of a folder that does not exist: shards are never written over others.

    Example:
        >>> import pathlib, tempfile
        >>> save_dir = pathlib.Path(tempfile.mkdtemp())
        >>> new_tag(save_dir, 120)
        'update120'
        >>> (save_dir / "deepspeed" / "update120").mkdir(parents=True)
        >>> new_tag(save_dir, 120)
        'update120.2'
    """
    tag, number = f"update{updates}", 1
    while (save_dir / SHARDS / tag).exists():
        number += 1
        tag = f"update{updates}.{number}"
    return tag


def shard_files(folder: Path) -> dict[str, int]:
    """Return name → bytes of the files of a folder, made to last through a power cut."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sizes[path.name] = path.stat().st_size
    sync_folder(folder)
    return sizes


def remove_unnamed(save_dir: Path) -> list[str]:
    """Remove what no pointer names (any more), and what killed processes left half written.

    Nothing is removed while a checkpoint cannot be read: it might name anything.

    Returns:
        The names of the folders that are gone.
    """
    remove_parts(save_dir)
    named = set()
    for path in save_dir.glob("*.pt"):
        try:
            found = read_pointer(path)
        except InputError:
            return []
        if found is not None:
            named.add(found[1].path(path))
    root = save_dir.resolve() / SHARDS
    gone = []
    for folder in sorted(root.glob("update*")):
        if folder not in named:
            shutil.rmtree(folder)
            gone.append(folder.name)
    for folder in sorted((root / UNIVERSAL).glob("update*")):
        if root / folder.name not in named:
            shutil.rmtree(folder)
    return gone
