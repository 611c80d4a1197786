"""Schedules of a loss's settings over training."""

from seqdistill.errors import InputError


def annealed_temperature(update: int, initial: float, start: int, end: int) -> float:
    """Return the teachers' temperature at an update: T₀ until ``start``, linear to 1 at ``end``.

    Args:
        update: number of the update, from 0.
        initial: T₀ > 0.
        start: first update of the annealing.
        end: update from which the temperature is 1; 0 keeps T₀ for good.

    Raises:
        InputError: T₀ is not above 0, or the annealing ends before it starts.

    Example:
        >>> [annealed_temperature(u, 5.0, 100, 300) for u in (0, 100, 200, 300)]
        [5.0, 5.0, 3.0, 1.0]
    """
    if not initial > 0:
        raise InputError(f"expected a teacher temperature above 0, got {initial}")
    if end == 0 or initial == 1.0:
        return float(initial)
    if end <= start:
        raise InputError(
            f"the temperature's annealing ends at update {end}, but starts at {start}; expected "
            "start < end"
        )
    done = min(max((update - start) / (end - start), 0.0), 1.0)
    return initial + (1.0 - initial) * done
