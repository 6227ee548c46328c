"""A network that reads digits, frozen, gets an adapter (LoRA) that learns two tasks, with synapses and without.

python examples/lora.py
"""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn

import synaptic_intelligence as si
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.tasks import Task, permute_pixels


def learn(model: nn.Module, task: Task, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        for batch in torch.randperm(3000).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(task.train_inputs[batch] / 255), task.train_targets[batch]).backward()
            optimizer.step()


def accuracy(model: nn.Module, task: Task) -> float:
    outputs = model(task.test_inputs[:1000] / 255)
    return float((outputs.argmax(dim=1) == task.test_targets[:1000]).float().mean())


digits, *tasks = permute_pixels(load_mnist(), tasks=3, seed=0)
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
learn(network, digits, torch.optim.AdamW(network.parameters(), lr=3e-3))

for c in (1.0, 0.0):
    torch.manual_seed(0)
    model = get_peft_model(deepcopy(network), LoraConfig(r=16, lora_alpha=16, target_modules=["0", "2"]))
    adapter = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapter, lr=1e-2)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=0.1)  # the first line
    for task in tasks:
        learn(model, task, optimizer)
        synapses.consolidate()  # the second line: a task has ended
    first, second = (accuracy(model, task) for task in tasks)
    print(f"{'with' if c else 'without'} synapses: accuracy {first:.3f} on the first task, {second:.3f} on the second")
