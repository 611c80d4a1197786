"""What the server of fast processes imports once: what takes programs seconds to import."""

import logging
import warnings

from seqdistill.cli.with_fairseq import light_imports

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fairseq's, about torch
    with light_imports():
        import fairseq  # noqa: F401
    import seqdistill.kernels  # noqa: F401

# Whoever is forked sets its log up by itself, as a fresh program does.
logging.root.handlers.clear()
logging.root.setLevel(logging.WARNING)
