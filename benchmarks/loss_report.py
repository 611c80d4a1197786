"""What came out of ``loss.py``: ratios, aims, the table, the plot."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks.common import BASELINE_COLOUR, COLOURS, new_figure, provenance, text_table

BASELINE = "released"
CROSS_ENTROPY = "cross_entropy_float32"

#: The compiled backend of a device, and what stands in for it where it cannot be used.
_COMPILED = {"cpu": ("cpp", "eager"), "cuda": ("triton", "eager")}

#: How many times faster than the research code, at V = 40,000 and M members.
_SPEED = (
    ("S1", "compiled", "float32", {4: 40.0, 10: 35.0}),
    ("S1", "eager", "float32", {4: 9.0, 10: 8.0}),
    ("S2", "compiled", "float32", {4: 5.5, 10: 5.5}),
    ("S2", "compiled", "bfloat16", {4: 10.0, 10: 10.0}),
)
_STUDENT_SHARE = 1.25
_MEMORY = 40.0
# "Flat in M and N": the peak grows by less than this from M = 4, N = 256 to M = 10, N = 1,024.
_FLAT = 1.1
_V, _MEMORY_CELL = 40_000, (10, 1024)

_TICKS = (1, 2, 5, 10, 20, 50, 100, 200)


def ratio(sides: Mapping[str, Any], name: str, of: str) -> float | None:
    """Return how many times longer ``of`` took than ``name``; None where one did not run."""
    if name not in sides or of not in sides:
        return None
    return float(sides[of]["seconds"] / sides[name]["seconds"])


def aims(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every aim whose cell was measured: what, the bound, the value, whether reached."""
    return list(_speed_aims(record)) + list(_memory_aims(record))


def _speed_aims(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in record["cells"]:
        if cell["V"] != _V or cell["N"] < 256:
            continue
        sides = cell["sides"]
        where = f"{cell['scope']} M={cell['M']} N={cell['N']}"
        for scope, kind, products, bounds in _SPEED:
            if scope != cell["scope"] or cell["M"] not in bounds:
                continue
            backend = kind if kind == "eager" else _compiled(record, sides)
            for name in (f"{backend}_{products}", f"{backend}_held_{products}"):
                value = ratio(sides, name, BASELINE)
                if value is not None:
                    yield _aim(f"{where}: {name}, times faster than (a)", bounds[cell["M"]], value)
        if cell["scope"] == "S2":
            name = f"{_compiled(record, sides)}_stored_float32"
            value = ratio(sides, CROSS_ENTROPY, name)
            if value is not None:
                what = f"{where}: student side ({name}), times the time of (b)"
                yield _aim(what, _STUDENT_SHARE, value, at_most=True)


def _memory_aims(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    peaks = {
        (m["M"], m["N"], m["side"]): m["peak_bytes"]
        for m in record["memory"]
        if m["scope"] == "S2" and m["V"] == _V
    }
    M, N = _MEMORY_CELL
    for side in sorted({name for m, n, name in peaks if (m, n) == _MEMORY_CELL}):
        if side in (BASELINE, CROSS_ENTROPY):
            continue
        if (M, N, BASELINE) in peaks:
            value = peaks[M, N, BASELINE] / peaks[M, N, side]
            yield _aim(f"S2 M={M} N={N}: {side}, times less memory than (a)", _MEMORY, value)
        if (4, 256, side) in peaks:
            value = peaks[M, N, side] / peaks[4, 256, side]
            what = f"S2 {side}: memory at M={M} N={N}, times that at M=4 N=256"
            yield _aim(what, _FLAT, value, at_most=True)


def _aim(what: str, bound: float, value: float, at_most: bool = False) -> dict[str, Any]:
    reached = value <= bound if at_most else value >= bound
    kind = "at_most" if at_most else "at_least"
    return {"what": what, kind: bound, "value": round(value, 4), "reached": reached}


def _compiled(record: Mapping[str, Any], sides: Mapping[str, Any]) -> str:
    choices = _COMPILED[record["device"]]
    return next((c for c in choices if f"{c}_float32" in sides), choices[-1])


def flat_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per cell and side, for the CSV: times, ratios, peak memory."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}

    def row(cell: Mapping[str, Any], side: str) -> dict[str, Any]:
        key = {name: cell[name] for name in ("scope", "V", "M", "N")} | {"side": side}
        return rows.setdefault(tuple(key.values()), key)

    for cell in record["cells"]:
        for name, side in cell["sides"].items():
            row(cell, name).update(
                seconds=side["seconds"],
                cpu_seconds=side["cpu_seconds"],
                wall_seconds=side["wall_seconds"],
                times_faster_than_released=ratio(cell["sides"], name, BASELINE),
                times_faster_than_cross_entropy=ratio(cell["sides"], name, CROSS_ENTROPY),
            )
    for measured in record["memory"]:
        row(measured, measured["side"])["peak_bytes"] = measured["peak_bytes"]
    return list(rows.values())


def summary(record: Mapping[str, Any]) -> str:
    """Return the tables: per cell times and ratios, memory, the aims."""
    parts = [_cell_table(cell) for cell in record["cells"]]
    if record["memory"]:
        parts.append(_memory_table(record["memory"]))
    if record["aims"]:
        parts.append(_aim_table(record["aims"]))
    if record["skipped"]:
        rows = [(s["cell"], s["side"], s["reason"]) for s in record["skipped"]]
        parts.append(text_table(("skipped", "side", "reason"), rows))
    return "\n\n".join([*parts, provenance(record)])


def _cell_table(cell: Mapping[str, Any]) -> str:
    sides = cell["sides"]
    products = sides.get("products_float32")
    rows = []
    for name, side in sides.items():
        gaps = side.get("gradient_difference")
        rows.append(
            (
                name,
                f"{1e3 * side['cpu_seconds']:,.1f}",
                f"{1e3 * side['wall_seconds']:,.1f}",
                _times(ratio(sides, name, BASELINE)),
                _times(ratio(sides, name, CROSS_ENTROPY)),
                _times(products and ratio(sides, name, "products_float32")),
                "" if gaps is None else " ".join(f"{k} {v:.1e}" for k, v in gaps.items()),
            )
        )
    teachers = cell["teachers"]
    title = (
        f"{cell['scope']}  V = {cell['V']:,}  M = {cell['M']}  N = {cell['N']:,}   "
        f"(teachers: entropy {teachers['total_uncertainty']:.2f} nat, "
        f"top-1 {teachers['top1']:.2f}, RMI {teachers['rmi']:.3f}; "
        f"projections: {cell['member_projections']})"
    )
    header = (
        "side", "CPU ms", "wall ms", "× vs (a)", "× vs (b)", "× vs (c)",
        f"gradient against {cell['compared_with']}",
    )  # fmt: skip
    return title + "\n" + text_table(header, rows)


def _memory_table(memory: Iterable[Mapping[str, Any]]) -> str:
    peaks = {(m["scope"], m["V"], m["M"], m["N"], m["side"]): m["peak_bytes"] for m in memory}
    rows = []
    for (*cell, side), peak in peaks.items():
        baseline = peaks.get((*cell, BASELINE))
        scope, V, M, N = cell
        less = _times(baseline / peak if baseline and side != BASELINE else None)
        rows.append((f"{scope} V={V:,} M={M} N={N:,}", side, f"{peak / 1e6:,.0f}", less))
    return text_table(("peak memory", "side", "MB", "× less than (a)"), rows)


def _aim_table(found: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for aim in found:
        sign, bound = ("≤", aim["at_most"]) if "at_most" in aim else ("≥", aim["at_least"])
        state = "reached" if aim["reached"] else "MISSED"
        rows.append((aim["what"], f"{sign} {bound:g}", f"{aim['value']:.2f}", state))
    return text_table(("aim", "bound", "found", ""), rows)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def draw(record: Mapping[str, Any]) -> Any:
    """Return the figure: times faster than (a) over M, one pair of axes a scope and vocabulary."""
    N = max((cell["N"] for cell in record["cells"] if cell["N"] <= 256), default=None)
    cells = [c for c in record["cells"] if c["N"] == N and BASELINE in c["sides"]]
    panels = list(dict.fromkeys((c["scope"], c["V"]) for c in cells))
    if not panels:
        return None
    figure, axes = new_figure(len(panels), size=(4.6, 3.8))
    names = list(dict.fromkeys(name for c in cells for name in c["sides"] if name != BASELINE))
    for one, (scope, V) in zip(axes[0], panels, strict=True):
        here = [c for c in cells if (c["scope"], c["V"]) == (scope, V)]
        places = {M: i for i, M in enumerate(sorted({c["M"] for c in here}))}
        for name in names:
            points = [
                (places[c["M"]], value)
                for c in here
                if (value := ratio(c["sides"], name, BASELINE)) is not None
            ]
            if points:
                one.plot(*zip(*sorted(points), strict=True), label=name, **_style(name, names))
        if V == _V:
            for kind_scope, kind, products, bounds in _SPEED:
                for M, bound in bounds.items():
                    if kind_scope == scope and M in places:
                        one.hlines(bound, places[M] - 0.2, places[M] + 0.2, color="#000000")
                        text = f"aim: {kind}, {products} ≥ {bound:g}"
                        one.annotate(text, (places[M] - 0.2, bound * 1.04), fontsize=6)
        one.axhline(1.0, color=BASELINE_COLOUR, linewidth=1.6)
        one.set_yscale("log")
        one.set_xlim(-0.4, len(places) - 0.6)
        one.set_xticks(list(places.values()), [str(M) for M in places])
        one.set_xlabel("members M")
        one.set_yticks(_TICKS, [f"{tick}×" for tick in _TICKS])
        one.minorticks_off()
        one.set_title(f"{scope}, V = {V:,}, N = {N}", fontsize=10)
    axes[0][0].set_ylabel("faster than the released criterion")
    shown: dict[str, Any] = {}
    for one in axes[0]:
        handles, labels = one.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    figure.legend(
        shown.values(), shown.keys(), fontsize=7, loc="outside right upper", handlelength=3.5
    )
    return figure


def _style(name: str, names: list[str]) -> dict[str, Any]:
    """Colour by kind; bfloat16 dashed; what is not ours in black and grey."""
    kind = name.rpartition("_")[0]
    kinds = list(dict.fromkeys(n.rpartition("_")[0] for n in names))
    others = {"cross_entropy": "#000000", "products": "#bbbbbb"}
    colour = others.get(kind, COLOURS[kinds.index(kind) % (len(COLOURS) - 1)])
    style = "--" if name.endswith("bfloat16") else "-"
    return {"color": colour, "linestyle": style, "marker": "o", "markersize": 3.5, "linewidth": 1.4}
