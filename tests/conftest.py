"""What tests need: one thread, this environment's programs, and property tests that repeat."""

import os
import sys
from pathlib import Path

# As in an activated environment: another ninja than this one would compile extensions again.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

# Before torch is imported: its thread pool is sized once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import torch

torch.set_num_threads(1)

# The same examples every time and no database on disk: a failure in one place is one everywhere.
# HYPOTHESIS_PROFILE=explore looks for new ones.
hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize=True, database=None, max_examples=40
)
hypothesis.settings.register_profile("explore", deadline=None, database=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
