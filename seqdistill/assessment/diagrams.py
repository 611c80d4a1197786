"""Diagrams as files, SVG or PNG: reliability, and rejection curves."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqdistill.assessment.calibration import CalibrationResult
from seqdistill.assessment.rejection import RejectionResult
from seqdistill.errors import InputError
from seqdistill.files import atomic_write

FORMATS = ("svg", "png")
_SIZE = (4.6, 4.2)  # inches
_GUIDE = {"color": "0.6", "linewidth": 0.9}


def reliability_diagram(
    results: Mapping[str, CalibrationResult], path: str | Path, *, overwrite: bool = True
) -> None:
    """Draw accuracy against confidence, one line a system; the diagonal is perfect.

    Args:
        results: system → calibration.
        path: of the file, ending in ``.svg`` or ``.png``.
        overwrite: whether an existing file is replaced.

    Raises:
        InputError: matplotlib is missing, the ending is another one, or the file exists.

    Source: DeGroot and Fienberg, 1983; Niculescu-Mizil and Caruana, 2005.
    """

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], linestyle=":", **_GUIDE)
        for name, result in results.items():
            axes.plot(
                result.confidence, result.accuracy, marker="o", markersize=3.5, linewidth=1.5,
                label=f"{name} (ECE {100 * result.ece:.1f} %)",
            )  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")

    _save(draw, path, overwrite=overwrite)


def rejection_diagram(
    results: Mapping[str, RejectionResult], path: str | Path, *, overwrite: bool = True
) -> None:
    """Draw mean quality against the share handed over, with the best and the random order.

    Args:
        results: measure → rejection, all of one system.
        path: of the file, ending in ``.svg`` or ``.png``.
        overwrite: whether an existing file is replaced.

    Raises:
        InputError: there is no result, matplotlib is missing, the ending is another one, or the
            file exists.
    """
    if not results:
        raise InputError("expected at least one rejection curve, got none")
    first = next(iter(results.values()))

    def draw(axes: Any) -> None:
        axes.plot(first.rejected, first.random, linestyle=":", label="random order", **_GUIDE)
        axes.plot(first.rejected, first.oracle, linestyle="--", label="best order", **_GUIDE)
        for name, result in results.items():
            axes.plot(result.rejected, result.curve, linewidth=1.3, label=name)
        axes.set(xlim=(0, 1), xlabel="share handed over", ylabel=first.quality or "quality")

    _save(draw, path, overwrite=overwrite)


def check_format(path: str | Path) -> str:
    """Return the format of a diagram's file, by its ending.

    Raises:
        InputError: the ending is not one of :data:`FORMATS`.
    """
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise InputError(f"{path}: expected a name that ends in .svg or .png")
    return ending


def _save(draw: Callable[[Any], None], path: str | Path, *, overwrite: bool) -> None:
    ending = check_format(path)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('diagrams need matplotlib: pip install "seqdistill[report]"') from error
    # The same numbers give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "seqdistill", "font.size": 9}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(color="0.9", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.legend(fontsize=7.5, frameon=False)
        buffer = io.BytesIO()
        metadata = {"Date": None} if ending == "svg" else {}
        figure.savefig(buffer, format=ending, dpi=160, metadata=metadata)
    with atomic_write(path, overwrite=overwrite, binary=True) as handle:
        handle.write(buffer.getvalue())
