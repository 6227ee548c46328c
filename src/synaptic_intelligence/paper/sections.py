"""How each experiment is shown, in the order of the paper."""

from __future__ import annotations

from synaptic_intelligence.paper.correlation_figure import draw_correlations
from synaptic_intelligence.paper.correlations import correlation_rows
from synaptic_intelligence.paper.expected import draw_beside_paper
from synaptic_intelligence.paper.final import draw_final
from synaptic_intelligence.paper.measures import draw_measures, measure_rows
from synaptic_intelligence.paper.page import Section
from synaptic_intelligence.paper.quadratic import draw_quadratic, quadratic_rows
from synaptic_intelligence.paper.row import accuracy_rows
from synaptic_intelligence.paper.toy import draw_toy, toy_rows
from synaptic_intelligence.report import draw_figure

SECTIONS: dict[str, Section] = {
    "toy": Section("figure 2", draw_toy, toy_rows),
    "quadratic": Section("section 4", draw_quadratic, quadratic_rows),
    "importance-measures": Section("section 4", draw_measures, measure_rows),
    "split-mnist": Section("figure 3", draw_figure, accuracy_rows),
    "permuted-mnist": Section("figure 4", draw_beside_paper, accuracy_rows),
    "task-correlations": Section("figure 5", draw_correlations, correlation_rows, runs_of="permuted-mnist"),
    "split-cifar": Section("figure 6", draw_final, accuracy_rows, training=True),
    "split-cifar10-halves": Section("supplement", draw_final, accuracy_rows, training=True),
    "split-cifar10": Section("beside the paper", draw_final, accuracy_rows, training=True),
}
"""By experiment."""
