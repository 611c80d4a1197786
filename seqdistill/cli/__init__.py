"""The ``seqdistill`` command: one file a verb."""
