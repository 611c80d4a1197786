"""A real target store on the disk, of a synthetic ensemble over random sentences."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.inputs import make_inputs
from seqdistill.files import locked
from seqdistill.targets.store import (
    DataPrint,
    DictionaryPrint,
    Fingerprint,
    ShardBuilder,
    SideHasher,
    StorePlan,
    StoreSettings,
    StoreWriter,
    TargetStore,
    TeacherPrint,
    sparsify,
    write_shard,
)
from seqdistill.teachers import ensemble_statistics


def random_store(
    folder: Path, V: int, M: int, T: int, sentences: int, *, distinct: int = 8, seed: int = 1
) -> TargetStore:
    """Write a store and open it.

    Args:
        folder: where; empty or missing.
        V: vocabulary entries.
        M: members.
        T: tokens of every sentence.
        sentences: in the store, at least ``distinct``.
        distinct: sentences whose targets are computed; the store repeats them, each at a place of
            its own on the disk.
        seed: of the ensemble.
    """
    inputs = make_inputs(V, M, distinct * T, 64, seed=seed, shared_projection=True)
    settings = StoreSettings(V, M, top_k=min(128, V), origin={"made_for": "benchmark"})
    with torch.no_grad():
        log_probs = (torch.log_softmax(member.logits(), -1) for member in inputs.members)
        rows = sparsify(ensemble_statistics(log_probs), settings)

    ids = np.zeros(sentences * T, dtype=np.uint32)
    hasher = SideHasher()
    hasher.add(ids, [T] * sentences)
    side = hasher.result()
    symbols = [f"piece{number}" for number in range(V)]
    dictionary = DictionaryPrint.of(symbols)
    teachers = tuple(TeacherPrint(f"synthetic {m + 1}", f"{seed}.{m}") for m in range(M))
    data = DataPrint(sentences, side, side)
    plan = StorePlan(settings, Fingerprint(teachers, dictionary, dictionary, data), symbols)
    with locked(folder):
        writer = StoreWriter(folder, plan)
        for index in writer.missing():
            own = settings.sentences_of(index, sentences)
            builder = ShardBuilder(plan, index, [(0, 0)] * len(own))
            for begin in range(own.start, own.stop, distinct):
                numbers = range(begin, min(begin + distinct, own.stop))
                builder.add(numbers, [T] * len(numbers), rows)
            write_shard(folder, builder)
        writer.finish()
    return TargetStore.open(folder)
