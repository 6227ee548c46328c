"""A colour for each method: a hue of its own, and the darker, the stronger it is among those that are shown."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import LinearSegmentedColormap, to_hex

from synaptic_intelligence.drawing.style import SOFT
from synaptic_intelligence.report.statistics import Summary

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
