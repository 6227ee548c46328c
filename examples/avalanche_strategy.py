"""Permuted MNIST, two tasks, in a strategy of Avalanche, with synapses and without.

python examples/avalanche_strategy.py
"""

from __future__ import annotations

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.models import SimpleMLP
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import Tensor
from torch.utils.data import TensorDataset

from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.integrations.avalanche import SynapticPlugin  # the first line
from synaptic_intelligence.tasks import permute_pixels


def dataset(inputs: Tensor, targets: Tensor, count: int) -> AvalancheDataset:
    return AvalancheDataset([TensorDataset(inputs[:count].float() / 255, targets[:count])])


tasks = permute_pixels(load_mnist(), tasks=2, seed=0)
benchmark = benchmark_from_datasets(
    train=[dataset(task.train_inputs, task.train_targets, 2500) for task in tasks],
    test=[dataset(task.test_inputs, task.test_targets, 500) for task in tasks],
)

for c in (1.0, 0.0):
    torch.manual_seed(0)
    model = SimpleMLP(num_classes=10, hidden_size=100, drop_rate=0)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        train_mb_size=32,
        train_epochs=2,
        eval_mb_size=500,
        plugins=[SynapticPlugin(c=c, xi=0.1)],  # the second line: each experience is a task
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[TextLogger()]),
    )
    strategy.train(benchmark.train_stream)
    first, second = strategy.eval(benchmark.test_stream).values()
    print(f"{'with' if c else 'without'} synapses: accuracy {first:.3f} on the first task, {second:.3f} on the second")
