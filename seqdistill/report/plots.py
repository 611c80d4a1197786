"""Plots as SVG text that takes its colours from the page.

Matplotlib draws in stand-in colours which are then replaced by CSS variables, so one drawing serves
a light and a dark page. Texts stay texts: they are searchable and use the page's fonts.
"""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Estimate, IntArray
from seqdistill.assessment.calibration import CalibrationResult
from seqdistill.assessment.checks import FloatArray
from seqdistill.errors import InputError

SERIES = 6  # colours of systems; more systems start again from the first

# Stand-ins that nothing else in a drawing uses, and what takes their place.
_TEXT, _MUTED, _GRID, _IN, _OUT = "#010101", "#010102", "#010103", "#010104", "#010105"
_VARIABLES = {
    _TEXT: "var(--text)",
    _MUTED: "var(--muted)",
    _GRID: "var(--rule)",
    _IN: "var(--in)",
    _OUT: "var(--out)",
    **{f"#0102{index:02x}": f"var(--series-{index})" for index in range(SERIES)},
}
_SIZE = (3.3, 2.75)  # inches; the page scales the drawing to its column
_POINTS = 240  # of a curve: more would not be seen and would only fatten the page
_SCATTER = 400  # of a cloud of points, likewise


@dataclass(frozen=True)
class Curve:
    """A line of a plot.

    Attributes:
        x: shape (K,).
        y: shape (K,).
        series: number of the colour, None for the muted colour of guides.
        dashed: whether the line is dashed.
    """

    x: FloatArray
    y: FloatArray
    series: int | None = None
    dashed: bool = False


def curves_plot(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    key: str,
    unit_square: bool = False,
) -> str:
    """Return an SVG of lines.

    Args:
        curves: drawn in order, guides first.
        x_label: of the axis.
        y_label: of the axis.
        key: unique on the page, of letters and digits; prefixes the ids in the SVG.
        unit_square: both axes run from 0 to 1 and the diagonal is a guide.

    Raises:
        InputError: matplotlib is missing.
    """
    with _drawing() as drawing:
        axes = drawing.axes
        if not unit_square:
            axes.locator_params(nbins=6)
        if unit_square:
            axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.set_xlim(-0.01, 1.01)
            axes.set_ylim(-0.01, 1.01)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        for curve in curves:
            chosen = _thin(len(curve.x))
            axes.plot(
                curve.x[chosen],
                curve.y[chosen],
                color=_MUTED if curve.series is None else _series(curve.series),
                linewidth=1.0 if curve.series is None else 1.6,
                linestyle=(0, (3.5, 2)) if curve.dashed else "-",
            )
        _label(axes, x_label, y_label)
        return drawing.svg(key)


def histogram_plot(in_scores: FloatArray, out_scores: FloatArray, *, x_label: str, key: str) -> str:
    """Return an SVG of the two distributions; the last bin holds the top 0.5 % as well.

    Args:
        in_scores: in-domain, shape (n_in,).
        out_scores: out-of-domain, shape (n_out,).
        x_label: of the axis.
        key: unique on the page.

    Raises:
        InputError: matplotlib is missing.
    """
    both = np.concatenate([in_scores, out_scores])
    low, high = float(both.min()), float(np.quantile(both, 0.995))
    if high <= low:  # constant scores still deserve one bar
        low, high = low - 0.5, low + 0.5
    # Few sentences get few bins, or the picture would be of their noise.
    bins = min(36, 4 + round(1.5 * min(len(in_scores), len(out_scores)) ** 0.5))
    edges = np.linspace(low, high, bins + 1)
    with _drawing() as drawing:
        for scores, colour in ((in_scores, _IN), (out_scores, _OUT)):
            counts, _ = np.histogram(np.clip(scores, low, high), bins=edges)
            share = 100.0 * counts / len(scores)
            drawing.axes.stairs(share, edges, fill=True, color=colour, alpha=0.28)
            drawing.axes.stairs(share, edges, color=colour, linewidth=1.3)
        drawing.axes.set_ylim(bottom=0)
        drawing.axes.locator_params(nbins=5)
        _label(drawing.axes, x_label, "% of sentences")
        return drawing.svg(key)


def scatter_plot(
    x: FloatArray, y: FloatArray, *, x_label: str, y_label: str, series: int, key: str
) -> str:
    """Return an SVG of at most 400 points, evenly chosen; on the diagonal both sides are equal.

    Axes are logarithmic where every value is above 0, as uncertainties spread over powers of ten.

    Args:
        x: shape (n,), at least one.
        y: shape (n,).
        x_label: of the axis.
        y_label: of the axis.
        series: number of the colour.
        key: unique on the page.

    Raises:
        InputError: matplotlib is missing.
    """
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), _SCATTER)).round().astype(np.int64))
    x, y = x[chosen], y[chosen]
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    with _drawing() as drawing:
        axes = drawing.axes
        if 0.0 < low < high:
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                _plain_powers(axis, decades=np.log10(high / low))
        axes.plot([low, high], [low, high], color=_MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.plot(
            x, y, linestyle="", marker="o", markersize=2.6, markeredgewidth=0, alpha=0.45,
            color=_series(series),
        )  # fmt: skip
        _label(axes, x_label, y_label)
        return drawing.svg(key)


def reliability_plot(result: CalibrationResult, *, series: int, key: str) -> str:
    """Return a reliability diagram: accuracy against confidence; the diagonal is perfect.

    Raises:
        InputError: matplotlib is missing.
    """
    with _drawing() as drawing:
        axes = drawing.axes
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.vlines(
            result.confidence, result.confidence, result.accuracy, color=_MUTED, linewidth=0.8
        )
        axes.plot(
            result.confidence,
            result.accuracy,
            color=_series(series),
            linewidth=1.4,
            marker="o",
            markersize=3.2,
        )
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        _label(axes, "confidence", "accuracy")
        return drawing.svg(key)


def rank_plot(
    first: IntArray, last: IntArray, lines: Sequence[Sequence[Estimate]], *, key: str
) -> str:
    """Return an SVG of gradients by rank, both axes logarithmic; intervals are bands.

    A value stands at the geometric mean of its bin's ends; one that is 0 is left out.

    Args:
        first: lowest rank of each bin, shape (K,).
        last: highest rank, shape (K,).
        lines: of each loss, K values; colours in their order.
        key: unique on the page.

    Raises:
        InputError: matplotlib is missing.
    """
    x = np.sqrt(first.astype(np.float64) * last)
    with _drawing() as drawing:
        axes = drawing.axes
        axes.set_xscale("log")
        axes.set_yscale("log")
        for index, line in enumerate(lines):
            ends = [(e.value, e.value if e.low is None else e.low, e.high) for e in line]
            columns = np.array([(v, low, v if high is None else high) for v, low, high in ends])
            columns[columns <= 0.0] = np.nan  # nothing that a logarithm could show
            if np.isnan(columns[:, 0]).all():
                continue
            value, low, high = columns.T
            colour = _series(index)
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, value, color=colour, linewidth=1.4, marker="o", markersize=2.4)
        _plain_powers(axes.xaxis, decades=np.log10(x[-1] / x[0]))
        _label(axes, "rank of the class", "mean |∂L/∂z|")
        return drawing.svg(key)


class _drawing:  # noqa: N801 (reads as the verb it is: with _drawing() as …)
    """One small pair of axes, drawn without pyplot and without touching global settings."""

    def __enter__(self) -> "_drawing":
        try:
            import matplotlib
            from matplotlib.figure import Figure
        except ImportError as error:
            raise InputError('plots need matplotlib: pip install "seqdistill[report]"') from error
        self._matplotlib = matplotlib
        self._context = matplotlib.rc_context(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "seqdistill",  # the same numbers give the same page
                "font.size": 8.5,
                "text.color": _TEXT,
                "axes.labelcolor": _TEXT,
                "axes.edgecolor": _MUTED,
                "xtick.color": _MUTED,
                "ytick.color": _MUTED,
                "axes.linewidth": 0.8,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.color": _GRID,
                "grid.linewidth": 0.6,
            }
        )
        self._context.__enter__()
        self._figure = Figure(figsize=_SIZE, layout="constrained")
        self.axes: Any = self._figure.add_subplot()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(None, None, None)

    def svg(self, key: str) -> str:
        """Return the drawing, its ids prefixed by ``key`` so that they are unique on the page."""
        buffer = io.StringIO()
        self._figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
        text = buffer.getvalue()
        name = html.escape(f"{self.axes.get_ylabel()} against {self.axes.get_xlabel()}")
        text = text[text.index("<svg") :]  # the XML declaration has no place inside a page
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{key}-", text)
        # A hundredth of a point is not seen, and more digits are most of a drawing's bytes.
        text = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", text)
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, variable)
        return re.sub(
            r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
            lambda found: f'<svg class="plot" role="img" aria-label="{name}" {found[1]}>',
            text,
            count=1,
        )


def _series(index: int) -> str:
    return f"#0102{index % SERIES:02x}"


def _label(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.tick_params(length=2.5)


def _plain_powers(axis: Any, *, decades: float) -> None:
    """Ticks at 1 (2, 5) times a power of ten, written out: a small plot has no room for more."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(
        LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=6)
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _thin(length: int) -> Any:
    """Indices of at most ``_POINTS`` points, both ends among them."""
    return np.unique(np.linspace(0, length - 1, min(length, _POINTS)).round().astype(np.int64))
