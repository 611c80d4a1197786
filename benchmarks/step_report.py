"""What came out of ``step.py``: ratios, aims, the table, the plot."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.common import BASELINE_COLOUR, COLOURS, new_figure, provenance, text_table

BASELINE = "released"

_FROM_STORE = {4: 5.0, 10: 8.0}
_READING_SHARE = 0.03
#: The vocabulary that the aims are for.
_V = 40_000
_PARTS = ("reading", "teachers", "student forward", "loss", "backward", "optimiser")


def aims(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the aims: steps from the store against (a)'s, and the share of reading."""
    return list(_aims(record)) if record["V"] == _V else []


def _aims(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in record["cells"]:
        for name, side in cell["sides"].items():
            if not name.startswith("stored"):
                continue
            value = _ratio(cell, name)
            if cell["M"] in _FROM_STORE:
                bound = _FROM_STORE[cell["M"]]
                yield {
                    "what": f"M={cell['M']}: {name}, times faster than (a)'s step",
                    "at_least": bound,
                    "value": value,
                    "reached": value >= bound,
                }
            share = side["parts"]["reading"] / side["seconds"]
            yield {
                "what": f"M={cell['M']}: {name}, reading's share of the step",
                "at_most": _READING_SHARE,
                "value": share,
                "reached": share <= _READING_SHARE,
            }


def flat_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per M and side, for the CSV."""
    return [
        {
            "M": cell["M"],
            "side": name,
            "seconds": side["seconds"],
            "cpu_seconds": side["cpu_seconds"],
            "wall_seconds": side["wall_seconds"],
            "times_faster_than_released": _ratio(cell, name),
            **{f"{part}_seconds": side["parts"].get(part) for part in _PARTS},
        }
        for cell in record["cells"]
        for name, side in cell["sides"].items()
    ]


def summary(record: Mapping[str, Any]) -> str:
    """Return the tables: step times with their parts, the aims."""
    parts = []
    for cell in record["cells"]:
        rows = []
        for name, side in cell["sides"].items():
            shown = (side["parts"].get(part) for part in _PARTS)
            rows.append(
                (
                    name,
                    f"{1e3 * side['cpu_seconds']:,.0f}",
                    f"{1e3 * side['wall_seconds']:,.0f}",
                    f"{_ratio(cell, name):.2f}",
                    *("" if value is None else f"{1e3 * value:,.1f}" for value in shown),
                )
            )
        title = (
            f"training step  V = {record['V']:,}  M = {cell['M']}  N = {record['N']}  "
            f"{cell['parameters'] / 1e6:.1f} M parameters; teachers: {cell['teachers']}; "
            f"Adam: {record['optimiser']}"
        )
        header = ("side", "CPU ms", "wall ms", "× vs (a)", *_PARTS)
        parts.append(title + "\n" + text_table(header, rows))
    lines = []
    for aim in record["aims"]:
        sign, bound = ("≤", aim["at_most"]) if "at_most" in aim else ("≥", aim["at_least"])
        state = "reached" if aim["reached"] else "MISSED"
        lines.append((aim["what"], f"{sign} {bound:g}", f"{aim['value']:.3g}", state))
    if lines:
        parts.append(text_table(("aim", "bound", "found", ""), lines))
    return "\n\n".join([*parts, provenance(record)])


def draw(record: Mapping[str, Any]) -> Any:
    """Return the figure: a bar a side, cut into its parts where they are known."""
    figure, axes = new_figure(len(record["cells"]), size=(5.0, 3.4))
    for one, cell in zip(axes[0], record["cells"], strict=True):
        names = list(cell["sides"])
        for place, name in enumerate(names):
            side = cell["sides"][name]
            left = 0.0
            for number, part in enumerate(_PARTS):
                value = side["parts"].get(part, 0.0)
                one.barh(place, value, left=left, color=COLOURS[number], label=part)
                left += value
            rest = max(0.0, side["seconds"] - left)
            one.barh(place, rest, left=left, color=BASELINE_COLOUR, label="rest")
            one.annotate(f" {_ratio(cell, name):.1f}×", (side["seconds"], place), va="center")
        one.set_yticks(range(len(names)), names)
        one.invert_yaxis()
        one.set_xlim(0, 1.15 * max(side["seconds"] for side in cell["sides"].values()))
        one.set_xlabel("seconds a step (× faster than released)")
        one.set_title(f"M = {cell['M']}, N = {record['N']}, V = {record['V']:,}", fontsize=10)
        handles, labels = one.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        one.legend(shown.values(), shown.keys(), fontsize=7, loc="lower right")
    return figure


def _ratio(cell: Mapping[str, Any], name: str) -> float:
    return float(cell["sides"][BASELINE]["seconds"] / cell["sides"][name]["seconds"])
