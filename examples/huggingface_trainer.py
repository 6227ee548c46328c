"""Permuted MNIST, two tasks, in the Trainer of Hugging Face, with synapses and without.

python examples/huggingface_trainer.py
"""

from __future__ import annotations

import tempfile

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.integrations.huggingface import SynapticCallback
from synaptic_intelligence.tasks import permute_pixels


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(pixels / 255)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def accuracy(model: Classifier, inputs: Tensor, targets: Tensor) -> float:
    return float((model(inputs, targets)["logits"].argmax(dim=1) == targets).float().mean())


arguments = TrainingArguments(
    tempfile.mkdtemp(),
    num_train_epochs=3,
    per_device_train_batch_size=32,
    learning_rate=1e-2,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
)
tasks = permute_pixels(load_mnist(), tasks=2, seed=0)

for c in (1.0, 0.0):
    set_seed(0)
    model = Classifier()
    callback = SynapticCallback(c=c, xi=0.1)  # the first line
    for task in tasks:
        pairs = zip(task.train_inputs[:2000], task.train_targets[:2000], strict=True)
        data = [{"pixels": pixels, "labels": label} for pixels, label in pairs]
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])  # the second line
        trainer.remove_callback(PrinterCallback)
        trainer.train()  # a task ends with it
    first, second = (accuracy(model, task.test_inputs[:1000], task.test_targets[:1000]) for task in tasks)
    print(f"{'with' if c else 'without'} synapses: accuracy {first:.3f} on the first task, {second:.3f} on the second")
