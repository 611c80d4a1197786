"""What every store of teachers' say is asked for: of which data, where, by how many processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Progress(Protocol):
    """Shows how far a piece of work is."""

    def __call__(self, what: str, done: int, total: int, steps: Iterator[int]) -> None:
        """Go through ``steps``, each a number of sentences; ``done`` of ``total`` are done."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """What targets and hidden states have in common.

    Attributes:
        data: fairseq's data folder.
        output: folder of the store.
        source: language; None: inferred from the folder.
        target: language; likewise.
        subset: of the data.
        shard_sentences: sentences a shard.
        max_tokens: of a batch; None: what the store takes by itself.
        workers: processes.
        use_cpu: even where there is a GPU.
        overwrite: begin a store anew.
        command: to note in the store; None: that of the process.
    """

    data: str
    output: str
    source: str | None = None
    target: str | None = None
    subset: str = "train"
    shard_sentences: int = 2048
    max_tokens: int | None = None
    workers: int = 1
    use_cpu: bool = False
    overwrite: bool = False
    command: tuple[str, ...] | None = None
