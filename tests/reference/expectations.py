"""The loss of one predicted expectation, by arithmetic of 100 digits."""

from tests.reference.arithmetic import context, exp, log, number


def divergence(output: float, target: float) -> tuple[float, float]:
    """Return s − t + t ln(t/s) with s = ln(1 + e^o), and its derivative σ(o)(1 − t/s)."""
    o, t = number(output), number(target)
    s = context.log1p(exp(o))
    value = s - t + (t * log(t / s) if t else number(0))
    slope = exp(o) / (1 + exp(o)) * (1 - t / s)
    return float(value), float(slope)
