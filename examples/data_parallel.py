"""Permuted MNIST, two tasks, under DistributedDataParallel, with synapses and without.

torchrun --nproc-per-node 2 examples/data_parallel.py
"""

from __future__ import annotations

import gc

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import synaptic_intelligence as si
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.tasks import Task, permute_pixels

TRAIN, TEST, BATCH = 2560, 1000, 64


def accuracy(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return float((model(task.test_inputs[:TEST] / 255).argmax(1) == task.test_targets[:TEST]).float().mean())


def learn(tasks: tuple[Task, ...], c: float) -> list[float]:
    """Train on one task after the other; return the accuracy on each at the end."""
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    model = DistributedDataParallel(bare)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=0.1)  # the first line
    for task in tasks:
        for _ in range(2):
            for batch in torch.randperm(TRAIN).split(BATCH):  # the same order on all ranks
                mine = batch.chunk(dist.get_world_size())[dist.get_rank()]
                optimizer.zero_grad()
                F.cross_entropy(model(task.train_inputs[mine] / 255), task.train_targets[mine]).backward()
                optimizer.step()
        synapses.consolidate()  # the second line
    return [accuracy(bare, task) for task in tasks]


if __name__ == "__main__":
    dist.init_process_group("gloo")  # "nccl" on GPUs
    tasks = permute_pixels(load_mnist(), tasks=2, seed=0)
    for c in (1.0, 0.0):
        first, second = learn(tasks, c)
        if dist.get_rank() == 0:
            how = "with" if c else "without"
            print(f"{how} synapses: accuracy {first:.3f} on the first task, {second:.3f} on the second")
    gc.collect()  # a model that is freed after its group can wait for ever for a thread of gloo
    dist.destroy_process_group()
