"""The comparison as a plot, from the rows of its CSV alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.methods.page import by_method, heading
from benchmarks.methods.table import Row

_QUALITY = ("bleu", "wer")
_KEY_LINES = 30


def figure(rows: Sequence[Row], baselines: Sequence[str]) -> Any:
    """Return the plot of quality × uncertainty × cost, None where nothing has quality yet.

    A panel for each measure: quality to the right, mean AUROC upwards; the area of a circle is the
    CPU time of the training (baselines, grey, have none); bars are the intervals over seeds. A
    method is a number, which the key beside the panels names: there are more methods than
    names would find place.

    Raises:
        InputError: matplotlib is missing.
    """
    from benchmarks.common import BASELINE_COLOUR, COLOURS, new_figure

    table = by_method(rows)
    quality = next((q for q in _QUALITY if any(q in one for one in table.values())), None)
    metrics = dict.fromkeys(row.metric for row in rows)
    means = [m for m in metrics if m.startswith("auroc:") and m.endswith(":mean")]
    if quality is None or not means:
        return None
    shown = {name: one for name, one in table.items() if quality in one}
    drawing, axes = new_figure(len(means) + 1, size=(4.6, 5.2))
    costs = [one["train_cpu_minutes"].value for one in shown.values() if "train_cpu_minutes" in one]
    largest = max(costs, default=1.0)
    for axis, mean in zip(axes.flat, means, strict=False):
        for number, (name, one) in enumerate(shown.items(), start=1):
            if mean not in one:
                continue
            colour = BASELINE_COLOUR if name in baselines else COLOURS[number % len(COLOURS)]
            x, y = one[quality], one[mean]
            bars = {"xerr": _half(x), "yerr": _half(y)}
            axis.errorbar(x.value, y.value, **bars, fmt="none", ecolor=colour, elinewidth=0.8)
            cost = one.get("train_cpu_minutes")
            area = 30.0 if cost is None else 20.0 + 180.0 * cost.value / largest
            axis.scatter([x.value], [y.value], s=area, color=colour, alpha=0.55, linewidths=0)
            place = {"xytext": (0, 0), "textcoords": "offset points", "ha": "center"}
            axis.annotate(str(number), (x.value, y.value), va="center", fontsize=7, **place)
        axis.set_xlabel(heading(quality))
        axis.set_ylabel(f"{heading(mean)}, mean over sets, %")
    _draw_key(axes.flat[-1], shown)
    drawing.suptitle("area: CPU time of the training; bars: 95 % intervals over seeds", fontsize=8)
    return drawing


def _draw_key(axis: Any, shown: Mapping[str, Mapping[str, Row]]) -> None:
    """Write the methods' numbers and names into an axis of their own, in columns."""
    axis.axis("off")
    labels = [next(iter(one.values())).label for one in shown.values()]
    lines = [f"{number:2}  {label}" for number, label in enumerate(labels, start=1)]
    for column in range(0, len(lines), _KEY_LINES):
        place = (0.62 * (column // _KEY_LINES), 1.0)
        text = "\n".join(lines[column : column + _KEY_LINES])
        axis.text(*place, text, transform=axis.transAxes, va="top", fontsize=7, linespacing=1.35)


def _half(row: Row) -> float | None:
    return None if row.seeds_low is None else row.value - row.seeds_low
