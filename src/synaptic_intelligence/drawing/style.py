"""How every figure looks: matplotlib's settings, its title, and what is said below it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from synaptic_intelligence.atomic import replacing

STYLE = Path(__file__).with_name("figure.mplstyle")
SOFT, FAINT = "#555555", "#767676"
_WARNING = "#A33B00"
_LINE = 0.19  # the height of a line of text, in inches


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
