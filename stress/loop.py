"""A user's training loop that saves as it goes, and goes on from what it finds: what stress/kills.py kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import synaptic_intelligence as si
from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.checkpoint import read_importance
from synaptic_intelligence.importance_file import ImportanceFile

TASK, STEPS, EVERY = 50, 200, 5  # steps of a task, of all tasks, and between two checkpoints


@final
class Loop:
    """Four tasks of random points; a fresh optimizer for each."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.folder, self.step = folder, 0
        self.generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.synapses = si.SynapticIntelligence(self.model.named_parameters(), self.optimizer, c=0.1, xi=1e-3)
        folder.mkdir(exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            self.load()

    def state(self) -> dict[str, Any]:
        """Return all that the loop goes on from."""
        return {
            "step": self.step,
            "generator": self.generator.get_state(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "synapses": self.synapses.state_dict(),
        }

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.step = state["step"]
        self.generator.set_state(state["generator"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.synapses.load_state_dict(state["synapses"])

    def save(self) -> None:
        """Write the checkpoint and the importance file, each in one step."""
        with replacing(self.folder / "checkpoint.pt") as temporary:
            torch.save(self.state(), temporary)
        self.synapses.save(self.folder / "importance.safetensors")

    def go(self) -> None:
        """Train until the next checkpoint, and write it."""
        for _ in range(EVERY):
            x = torch.randn(32, 20, generator=self.generator) + self.step // TASK
            y = torch.randint(5, (32,), generator=self.generator)
            self.optimizer.zero_grad()
            cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
            self.step += 1
            if self.step % TASK == 0:
                self.synapses.consolidate()
                self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
                self.synapses.attach(self.optimizer)
        self.save()


def train(folder: Path) -> None:
    """Train to the end, from the checkpoint in ``folder`` where there is one."""
    loop = Loop(folder)
    while loop.step < STEPS:
        loop.go()


def states(folder: Path) -> dict[int, tuple[dict[str, Any], ImportanceFile]]:
    """Train to the end without a stop; return every checkpoint and importance file by its step."""
    loop = Loop(folder)
    found: dict[int, tuple[dict[str, Any], ImportanceFile]] = {}
    while loop.step < STEPS:
        loop.go()
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        found[loop.step] = state, read_importance(folder / "importance.safetensors")
    return found
