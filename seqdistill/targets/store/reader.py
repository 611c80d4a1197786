"""Reading a store: targets of any sentences, in any order, out of the memory map."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from seqdistill.errors import InputError
from seqdistill.files import read_json
from seqdistill.records import differences
from seqdistill.targets.sparse import SparseTarget
from seqdistill.targets.store.assembling import assemble
from seqdistill.targets.store.files import Array, MappedTensors
from seqdistill.targets.store.fingerprint import (
    DataPrint,
    DictionaryPrint,
    first_different_symbol,
)
from seqdistill.targets.store.settings import (
    MANIFEST,
    PLAN,
    PRIOR,
    VOCABULARY,
    StorePlan,
    check_format,
    shard_name,
)
from seqdistill.targets.store.shards import (
    REMAKE,
    REPAIR,
    Shard,
    ids_checksum,
    sentence_checksum,
)
from seqdistill.targets.store.writer import read_symbols


class TargetStore:
    """A finished store, open for reading; use :meth:`open`.

    Shards are mapped when first needed. Forked processes share the maps, and a pickled store opens
    itself again, so data-loader workers may read.

    Attributes:
        folder: of the store.
        plan: settings, fingerprint and symbols.
        manifest: as written.
    """

    def __init__(self, folder: Path, plan: StorePlan, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.plan = plan
        self.manifest = manifest
        self._shards: dict[int, Shard] = {}
        tensors = MappedTensors(folder / PRIOR).arrays
        # Copies: tensors over a read-only map would warn.
        self.prior = torch.from_numpy(tensors["prior"].copy())
        log_prior = tensors.get("log_prior")
        self.log_prior = None if log_prior is None else torch.from_numpy(log_prior.copy())

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        dictionary_symbols: Sequence[str] | None = None,
        data: DataPrint | None = None,
        verify: str = "size",
    ) -> "TargetStore":
        """Open a store, and check that it is whole and of the right things.

        Args:
            folder: of the store.
            dictionary_symbols: the target dictionary that the student has; None: not compared.
            data: the print of the corpus that the student trains on; None: not compared.
            verify: what is checked of the shards now: ``size``, or ``sha256`` of all of them, which
                reads the whole store. Each sentence's checksum is checked when it is read.

        Raises:
            InputError: no store, an unfinished or damaged one, or one of something else.
        """
        if verify not in ("size", "sha256"):
            raise InputError(f"verify: expected size or sha256, got {verify!r}")
        folder = Path(folder)
        plan, manifest = read_manifest(folder)
        if dictionary_symbols is not None:
            _check_dictionary(folder, plan, dictionary_symbols)
        for entry in store_files(manifest):
            problem = file_problem(folder / entry["file"], entry, contents=verify == "sha256")
            if problem:
                raise InputError(problem)
        store = cls(folder, plan, manifest)
        if data is not None:
            store.check_data(data)
        return store

    def check_data(
        self, data: DataPrint, sentence: Callable[[int], tuple[Array, Array]] | None = None
    ) -> None:
        """Compare the store's corpus with another.

        Args:
            data: the print of the other.
            sentence: gives the token ids of both sides of one of its sentences, so that an error
                can name the first that differs.

        Raises:
            InputError: they differ; it says in what.
        """
        lines = differences(asdict(self.plan.fingerprint.data), asdict(data))
        if not lines:
            return
        if sentence is not None:
            for index in range(min(self.sentences, data.sentences)):
                expected = self.shard(index).data_checksums(index)
                if expected != sentence_checksum(*sentence(index)):
                    lines.append(f"the first sentence that differs is {index} (counted from 0)")
                    break
        raise InputError(
            f"{self.folder} is of other data:\n  "
            + "\n  ".join(lines)
            + "\ntrain on the data that the store was made of (of the ensemble's own outputs: the "
            "folder data inside the store), or make a store of this data"
        )

    # -- what it is --------------------------------------------------------------------------

    @property
    def members(self) -> int:
        """M."""
        return self.plan.settings.members

    @property
    def temperature(self) -> float:
        """The temperature at which the members were read."""
        return self.plan.settings.temperature

    @property
    def sentences(self) -> int:
        """The corpus's sentences."""
        return self.plan.sentences

    @property
    def tokens(self) -> int:
        """Tokens with targets."""
        return int(self.manifest["tokens"])

    def __len__(self) -> int:
        return self.sentences

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (str(self.folder),))

    def shard(self, sentence: int) -> Shard:
        """Return the shard of a sentence.

        Raises:
            InputError: the store has no such sentence, or its shard is damaged.
        """
        if not 0 <= sentence < self.sentences:
            raise InputError(
                f"{self.folder} has the sentences 0 to {self.sentences - 1}, and {sentence} was "
                "asked for; the store is of other data"
            )
        index = sentence // self.plan.settings.shard_sentences
        found = self._shards.get(index)
        if found is None:
            found = Shard(self.folder / shard_name(index), self.plan, index)
            self._shards[index] = found
        return found

    def length(self, sentence: int) -> int:
        """Return a sentence's tokens; 0 if it was left out."""
        return self.shard(sentence).length(sentence)

    # -- targets -----------------------------------------------------------------------------

    def batch(
        self,
        sentences: Sequence[int],
        lengths: Sequence[int] | None = None,
        target_ids: Array | None = None,
    ) -> SparseTarget:
        """Return the targets of sentences, one after another.

        Args:
            sentences: their numbers in the corpus; any order, repeats allowed.
            lengths: the tokens that the caller has of each, end of sentence counted; None: not
                compared, and sentences that were left out have none.
            target_ids: the ids of these tokens, one sentence after another, compared with those
                that the store was made of (by their CRC-32); needs ``lengths``. None: not compared.

        Returns:
            Targets of all their tokens, N of them.

        Raises:
            InputError: a sentence is damaged, unknown, left out, or of another length.
        """
        rows = []
        begin = 0
        for n, sentence in enumerate(sentences):
            shard = self.shard(sentence)
            if lengths is not None:
                if shard.length(sentence) != lengths[n]:
                    self._refuse(sentence, lengths[n])
                end = begin + lengths[n]
                if target_ids is not None:
                    self._check_ids(shard, sentence, target_ids[begin:end])
                begin = end
            if shard.tokens:
                rows.append(shard.rows(sentence))
        return assemble(rows, self.plan.settings, self.prior, self.log_prior)

    def _check_ids(self, shard: Shard, sentence: int, ids: Array) -> None:
        if shard.data_checksums(sentence)[1] != ids_checksum(ids):
            raise InputError(
                f"{self.folder}: sentence {sentence} of the batch is not the one that the store "
                "was made of: its target has other tokens; the store is of other data, or its "
                "sentences are in another order"
            )

    def _refuse(self, sentence: int, length: int) -> None:
        stored = self.length(sentence)
        if stored == 0:
            raise InputError(
                f"{self.folder}: sentence {sentence} was left out, since the teachers cannot read "
                f"one so long; leave it out of the training too (--max-source-positions, "
                "--max-target-positions)"
            )
        raise InputError(
            f"{self.folder}: sentence {sentence} has {stored} tokens in the store and {length} in "
            "the batch; the store is of other data, or its sentences are in another order"
        )


def read_manifest(folder: Path) -> tuple[StorePlan, dict[str, Any]]:
    """Return plan and manifest of a finished store.

    Raises:
        InputError: there is none.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / PLAN).is_file():
            raise InputError(
                f"{folder}: this store is not finished; repeat the command that was making it, it "
                "goes on from there"
            )
        raise InputError(
            f"{folder}: no target store (it has no {MANIFEST}); make one with seqdistill "
            "cache-targets"
        )
    manifest = read_json(path)
    check_format(manifest, path)
    return StorePlan.from_dict(manifest, read_symbols(folder), path), manifest


def store_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return name, size and SHA-256 of each file that the manifest seals; shards have a number."""
    return [
        {"file": PRIOR} | manifest["prior"],
        {"file": VOCABULARY} | manifest["vocabulary"],
        *({"shard": index} | entry for index, entry in enumerate(manifest["shards"])),
    ]


def file_problem(path: Path, entry: dict[str, Any], *, contents: bool) -> str:
    """Return what is wrong with a file, "" if nothing is.

    Args:
        path: of the file.
        entry: what the manifest says of it.
        contents: compare the SHA-256, too; it is compared always if the file is no shard.
    """
    if not path.is_file():
        return f"{path}: missing; {REMAKE}"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return (
            f"{path}: expected {entry['bytes']} bytes, found {size}: truncated or replaced; "
            f"{REPAIR}"
        )
    if contents or "shard" not in entry:
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if digest != entry["sha256"]:
            return (
                f"{path}: damaged: its SHA-256 is {digest[:12]}…, and {entry['sha256'][:12]}… was "
                f"written; {REPAIR}"
            )
    return ""


def _check_dictionary(folder: Path, plan: StorePlan, symbols: Sequence[str]) -> None:
    expected = plan.fingerprint.target_dictionary
    found = DictionaryPrint.of(symbols)
    if expected != found:
        raise InputError(
            f"{folder} is of another target dictionary: {expected.size} entries there, "
            f"{found.size} here; {first_different_symbol(plan.symbols, symbols)}. Binarise the "
            "student's data with the teachers' dictionary, or make a store of this one"
        )


def _reopen(folder: str) -> TargetStore:
    return TargetStore.open(folder)
