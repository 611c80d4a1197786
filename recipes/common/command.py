"""From the options of a recipe to the words of a command line."""

from recipes.common.recipe import Arguments
from seqdistill.errors import InputError


def render(arguments: Arguments, step_name: str) -> list[str]:
    """Turn options into command-line words: true is a bare flag, false and null leave it away.

    Example:
        >>> render({"beam": 5, "quiet": True, "user": None, "lr": [0.1, 0.2]}, "decode")
        ['--beam', '5', '--quiet', '--lr', '0.1', '0.2']
    """
    words = []
    for name, value in arguments.items():
        if name.startswith("-"):
            raise InputError(f"{step_name}: write the option {name} without its dashes")
        if isinstance(value, dict):
            raise InputError(f"{step_name}: the option {name} cannot be a mapping, got {value!r}")
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words += [str(item) for item in (value if isinstance(value, list) else [value])]
    return words
