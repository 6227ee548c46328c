"""Permuted MNIST, two tasks, in the Trainer of Lightning, with synapses and without.

python examples/lightning_callback.py
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.integrations.lightning import SynapticCallback
from synaptic_intelligence.tasks import Task, permute_pixels

TRAIN, TEST = 2560, 1000


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        pixels, labels = batch
        return F.cross_entropy(self.layers(pixels / 255), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-2)


def accuracy(model: Classifier, task: Task) -> float:
    with torch.no_grad():
        logits = model.layers(task.test_inputs[:TEST] / 255)
    return float((logits.argmax(dim=1) == task.test_targets[:TEST]).float().mean())


tasks = permute_pixels(load_mnist(), tasks=2, seed=0)
quiet: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

for c in (1.0, 0.0):
    pl.seed_everything(0, verbose=False)
    model = Classifier()
    synaptic = SynapticCallback(c=c, xi=0.1)  # the first line
    for task in tasks:
        data = TensorDataset(task.train_inputs[:TRAIN], task.train_targets[:TRAIN])
        trainer = pl.Trainer(accelerator="cpu", max_epochs=4, callbacks=[synaptic], **quiet)  # the second line
        trainer.fit(model, DataLoader(data, batch_size=128, shuffle=True))  # and so a task has ended
    first, second = (accuracy(model, task) for task in tasks)
    print(f"{'with' if c else 'without'} synapses: accuracy {first:.3f} on the first task, {second:.3f} on the second")
