"""What only speech needs is imported at its first use; what is missing is said with its remedy."""

import importlib
from typing import Any

from seqdistill.errors import InputError

INSTALL = 'pip install "seqdistill[speech]"'


def need(module: str, what_for: str) -> Any:
    """Import a module of the ``speech`` extra.

    Args:
        module: its dotted name.
        what_for: begins the message, such as "reading audio".

    Raises:
        InputError: it is not installed, or does not work here.

    Example:
        >>> need("math", "counting").floor(2.5)
        2
        >>> need("no_such_module", "reading audio")
        Traceback (most recent call last):
            ...
        seqdistill.errors.InputError: reading audio needs no_such_module, which is not installed \
here; install it with: pip install "seqdistill[speech]"
    """
    distribution = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != distribution:
            raise InputError(_broken(what_for, distribution, error)) from error
        raise InputError(
            f"{what_for} needs {distribution}, which is not installed here; install it with: "
            f"{INSTALL}"
        ) from error
    # A library built for another torch fails while it is loaded, with any of these.
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(_broken(what_for, distribution, error)) from error


def _broken(what_for: str, distribution: str, error: Exception) -> str:
    return (
        f"{what_for} needs {distribution}, which is installed but does not load here ({error}). "
        "torchaudio's wheels want the torch of the same index; install both anew with: "
        f"{INSTALL}"
    )
