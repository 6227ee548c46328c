"""Each method has a hue of its own, and the stronger it is, the darker it is drawn."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.colors import to_rgb

from synaptic_intelligence.report.color import color
from synaptic_intelligence.report.statistics import summarize
from synaptic_intelligence.result import Result


def test_the_stronger_the_darker_within_a_hue(make_result: Callable[..., Result]) -> None:
    rivals = (("ewc", 10.0), ("ewc", 100.0), ("joint", None))
    summaries = summarize(make_result(strengths=(0.0, 0.01, 0.1, 1.0), rivals=rivals))
    colors = {(s.method, s.c): to_rgb(color(s, summaries)) for s in summaries}
    assert len(set(colors.values())) == len(colors)
    for line in ([("si", 0.01), ("si", 0.1), ("si", 1.0)], [("ewc", 10.0), ("ewc", 100.0)]):
        light = [sum(colors[key]) for key in line]
        assert light == sorted(light, reverse=True)
    # Synapses are blue, EWC is not, and what has no synapses is neither.
    for (method, c), (red, _, blue) in colors.items():
        assert (blue > red) == (method == "si" and c != 0.0), (method, c)
