"""The target store: what an ensemble says about a corpus, computed once, kept on the disk.

A folder with shards of sentences (:mod:`.shards`), the corpus prior (:mod:`.prior`) and a manifest
with a fingerprint of all that went into it (:mod:`.fingerprint`). Per token: the likeliest pieces
and their p̄, the tail mass, and the uncertainties of the full p̄.
"""

from seqdistill.targets.store.fingerprint import (
    DataPrint,
    DictionaryPrint,
    Fingerprint,
    SideHasher,
    SidePrint,
    TeacherPrint,
)
from seqdistill.targets.store.reader import TargetStore
from seqdistill.targets.store.settings import StorePlan, StoreSettings
from seqdistill.targets.store.shards import ShardBuilder, ids_checksum, sentence_checksum
from seqdistill.targets.store.sparsify import sparsify
from seqdistill.targets.store.writer import StoreWriter, write_shard

__all__ = [
    "DataPrint",
    "DictionaryPrint",
    "Fingerprint",
    "ShardBuilder",
    "SideHasher",
    "SidePrint",
    "StorePlan",
    "StoreSettings",
    "StoreWriter",
    "TargetStore",
    "TeacherPrint",
    "ids_checksum",
    "sentence_checksum",
    "sparsify",
    "write_shard",
]
