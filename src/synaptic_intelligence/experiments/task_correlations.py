"""Correlations between tasks: do later tasks use other synapses (figure 5 of the paper).

    synaptic run task-correlations

The runs are those of permuted-mnist, without synapses and with c = 0.1: their path integrals are compared task by task.
The paper reads from it a weaker correlation between tasks in the second layer with consolidation than without.
"""

from __future__ import annotations

from dataclasses import replace

from synaptic_intelligence.experiments.permuted_mnist import PERMUTED_MNIST

PAPER = replace(PERMUTED_MNIST.paper, c=(0.0, 0.1), rivals=())

TASK_CORRELATIONS = replace(
    PERMUTED_MNIST,
    name="task-correlations",
    title="Path integrals on permuted MNIST",
    what="whether the tasks of permuted MNIST use the same synapses",
    source="figure 5",
    paper=PAPER,
    quick=replace(PERMUTED_MNIST.quick, c=PAPER.c, rivals=(), fisher_images=PAPER.fisher_images),
    protocol={name: PERMUTED_MNIST.protocol[name] for name in ("network", "initialisation", "optimizer")},
    rivals=(),
)
