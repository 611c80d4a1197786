"""The error that a user can mend."""


class InputError(ValueError):
    """Something a user gave is not usable: a file, an option, a tensor.

    The message says what was expected, what came, and what to do. Command lines print it without
    a traceback and exit with 1; from Python it is an ordinary ``ValueError``.
    """


class UsageError(InputError):
    """The command line itself was wrong; command lines exit with 2."""
