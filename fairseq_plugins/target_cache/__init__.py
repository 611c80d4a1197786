"""The target store under fairseq: teachers that fill it, trainings that read it."""

from fairseq_plugins.target_cache.stored import StoredTargets, open_store

__all__ = ["StoredTargets", "open_store"]
