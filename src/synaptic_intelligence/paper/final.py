"""The figure of the final accuracies, in the form of the paper's figure 6: a bar for each task and method."""

from __future__ import annotations

import textwrap

import matplotlib
from matplotlib.figure import Figure

from synaptic_intelligence.drawing.style import FAINT, SOFT, STYLE, footer_height, inscribe
from synaptic_intelligence.paper.expected import EXPECTED, expected_averages, mark
from synaptic_intelligence.report.color import color
from synaptic_intelligence.report.statistics import mean_and_interval, summarize
from synaptic_intelligence.report.wording import method_name, numbers_shown, warnings
from synaptic_intelligence.result import Result

_WIDTH, _HEADER, _PANEL, _AXIS = 9.0, 0.95, 2.6, 0.55  # inches


def draw_final(result: Result) -> Figure:
    """Draw the accuracy on each task after the last one, and the average: bars for test, dots for training images.

    Bars are means over complete runs, with 95 % intervals if there are several; diamonds are the averages that the
    paper has, where it has them. The dashed line is chance.
    """
    with matplotlib.rc_context(fname=STYLE):
        summaries, expected = summarize(result), expected_averages(result)
        bottom = _AXIS + footer_height(warnings(result))
        height = _HEADER + _PANEL + bottom
        figure = Figure(figsize=(_WIDTH, height))
        ax = figure.add_axes((0.6 / _WIDTH, bottom / height, 1 - 0.75 / _WIDTH, _PANEL / height))
        width = 0.8 / max(len(summaries), 1)
        places = [*range(len(result.task_names)), len(result.task_names) + 0.4]
        for i, s in enumerate(summaries):
            x = [place + (i - (len(summaries) - 1) / 2) * width for place in places]
            shown = [*s.final, s.average]
            intervals = [estimate.half_width for estimate in shown if estimate.half_width is not None]
            ax.bar(
                x,
                [estimate.mean for estimate in shown],
                width * 0.92,
                yerr=intervals or None,
                color=color(s, summaries),
                error_kw={"elinewidth": 0.9, "ecolor": SOFT},
                label=method_name(s.method, s.c),
                zorder=2,
            )
            runs = [r for r in result.complete_runs if (r.method, r.c) == (s.method, s.c) and r.final_train_accuracy]
            if runs:
                train = [mean_and_interval([r.final_train_accuracy[j] for r in runs]).mean for j in range(len(s.final))]
                label = "training images" if s is summaries[-1] else None
                dots = [*train, sum(train) / len(train)]
                ax.plot(x, dots, "o", color="white", mec=SOFT, ms=3.6, mew=0.9, zorder=3, label=label)
            ax.annotate(
                f"{s.average.mean:.3f}",
                (x[-1], 0),
                (0, 4),
                "data",
                "offset points",
                ha="center",
                rotation=90,
                size=7.5,
                color="white",
                weight=700,
            )
            name = method_name(s.method, s.c)
            if name in expected:
                mark(ax, x[-1], expected[name], SOFT, EXPECTED if name == next(iter(expected)) else None)
        ax.axhline(result.chance, color=FAINT, linewidth=0.9, linestyle="--", zorder=1)
        gap = ((places[-1] - 0.7, result.chance), (0, 2), "data", "offset points")
        ax.annotate("chance", *gap, ha="center", size=7.5, color=FAINT)
        labels = [textwrap.fill(name, 10) for name in [*result.task_names, "average"]]
        ax.set_xticks(places, labels, size=8)
        ax.set(ylim=(0, 1.02), xlim=(-0.6, places[-1] + 0.6), ylabel="accuracy after the last task")
        inscribe(figure, result.title, numbers_shown(summaries), warnings(result))
        figure.legend(*ax.get_legend_handles_labels(), bbox_to_anchor=(1, 1 - 0.5 / height), ncols=6, columnspacing=1.2)
    return figure
