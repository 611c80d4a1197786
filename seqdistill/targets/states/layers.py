"""Names of a model's layers: ``encoder.3`` is what comes out of its third layer."""

from seqdistill.errors import InputError

SIDES = ("encoder", "decoder")


def read_layers(text: str, depths: dict[str, int]) -> tuple[str, ...]:
    """Read ``encoder.last,decoder.2`` for a model.

    Args:
        text: names with commas between them; ``last`` is the last layer of a side.
        depths: layers of each side.

    Returns:
        The names with numbers, in the order given.

    Raises:
        InputError: no name, one twice, or of a layer that the model does not have.

    Example:
        >>> read_layers("encoder.last,decoder.1", {"encoder": 6, "decoder": 3})
        ('encoder.6', 'decoder.1')
    """
    names: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        side, dot, number = part.partition(".")
        depth = depths.get(side, 0)
        layer = depth if number == "last" else int(number) if number.isdecimal() else 0
        if not dot or not 1 <= layer <= depth:
            has = ", ".join(
                f"{side}.1 to {side}.{depths[side]}" for side in SIDES if side in depths
            )
            raise InputError(
                f"expected layers such as encoder.last,decoder.2, got {part!r}; this model has "
                f"{has}"
            )
        name = f"{side}.{layer}"
        if name in names:
            raise InputError(f"the layer {name} is named twice in {text!r}")
        names.append(name)
    return tuple(names)


def parse_layer(name: str) -> tuple[str, int]:
    """Return side and number of a layer's name."""
    side, _, number = name.partition(".")
    return side, int(number)


def matching_layer(number: int, depth: int, other_depth: int) -> int:
    """Return which layer of a model stands for another model's, as far through it.

    Example:
        >>> [matching_layer(number, 6, 3) for number in (1, 2, 3, 6)]
        [1, 1, 2, 3]
    """
    return max(1, min(other_depth, (2 * number * other_depth + depth) // (2 * depth)))
