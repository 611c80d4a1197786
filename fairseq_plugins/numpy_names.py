"""Let fairseq train language models sentence by sentence with numpy 2.

fairseq's ``TokenBlockDataset`` asks numpy for ``compat.long``, which numpy 2 lacks, where each
sample is a sentence (``--sample-break-mode eos``). The module gets numpy with that one name more.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
from fairseq.data import token_block_dataset


class _WithCompat:
    """numpy, and ``compat.long``."""

    compat = SimpleNamespace(long=np.int64)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def install() -> None:
    """Give fairseq's module the name, unless its numpy has it."""
    if not hasattr(np, "compat"):
        token_block_dataset.np = _WithCompat()
