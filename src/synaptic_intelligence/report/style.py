"""How every figure looks: matplotlib's settings, and a colour for each method."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.report.statistics import Summary

STYLE = Path(__file__).with_name("figure.mplstyle")
SOFT, FAINT = "#555555", "#767676"
_WARNING = "#A33B00"
_LINE = 0.19  # the height of a line of text, in inches

# Okabe and Ito's colours: vermilion without synapses, and from sky blue over blue to near black with them.
_WITHOUT = "#D55E00"
_SHADES: dict[str, str | LinearSegmentedColormap] = {
    "si": LinearSegmentedColormap.from_list("synapses", ["#56B4E9", "#0072B2", "#002B45"]),
    "ewc": LinearSegmentedColormap.from_list("ewc", ["#E8B4D2", "#CC79A7", "#6B2F50"]),
    "sgd-dropout": "#009E73",
    "scratch": "#8A8A8A",
    "joint": "#1A1A1A",
}


def color(summary: Summary, summaries: Sequence[Summary]) -> str:
    """Return the colour of a method among all that are shown."""
    if summary.method == "si" and not summary.c:
        return _WITHOUT
    shades = _SHADES.get(summary.method, SOFT)
    if isinstance(shades, str) or summary.c is None:
        return shades if isinstance(shades, str) else SOFT
    strengths = [other.c for other in summaries if other.method == summary.method and other.c]
    return to_hex(shades((strengths.index(summary.c) + 1) / (len(strengths) + 1)))


def footer_height(said: Sequence[str]) -> float:
    """Return how much height, in inches, ``inscribe`` needs at the bottom for what must be said."""
    return _LINE * len(_lines(said))


def inscribe(figure: Figure, title: str, told: str, said: Sequence[str]) -> None:
    """Write a figure's title and one line below it at its top, and what a reader must know first at its bottom."""
    width, height = figure.get_size_inches()
    left = 0.12 / width
    figure.text(left, 1 - 0.1 / height, title, va="top", size=12, weight="bold")
    figure.text(left, 1 - 0.38 / height, told, va="top", size=8.5, color=SOFT)
    figure.text(left, 0.06 / height, "\n".join(_lines(said)), size=8.5, color=_WARNING, weight="bold", linespacing=1.35)


def _lines(said: Sequence[str]) -> list[str]:
    return [line for text in said for line in textwrap.wrap(text, 112)]


def svg_text(figure: Figure) -> str:
    """Return the figure as the text of an SVG file, the same for the same figure."""
    text = io.StringIO()
    with matplotlib.rc_context(fname=STYLE):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    return text.getvalue()


def save_figure(figure: Figure, folder: Path, name: str = "figure") -> tuple[Path, Path]:
    """Write a figure into ``folder`` as PNG (200 pixels per inch) and SVG, and return the two paths.

    Raises:
        OSError: the folder does not exist, is read-only or is full; the files that were there stay.

    Example:
        >>> import tempfile
        >>> png, svg = save_figure(Figure(), Path(tempfile.mkdtemp()))
        >>> png.name, svg.name
        ('figure.png', 'figure.svg')
    """
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with replacing(png) as temporary, matplotlib.rc_context(fname=STYLE):
        figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})
    with replacing(svg) as temporary:
        temporary.write_text(svg_text(figure), "utf-8")
    return png, svg
