"""Surgery between two tasks of a model that some ranks hold in parts, or one process whole."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from oracle import small_model
from stacks.jobs import Wrap, full, optimizer_and_synapses, part, whole_outcome, wrapped
from stacks.plain import STEPS, Outcome, batches
from torch import Tensor, nn

import synaptic_intelligence as si

Way = Literal["attach", "state", "file"]
SURGERY = si.Surgery(renamed={"3": "head"}, resized=["head"], moved=["0.weight"], replaced=["2"], added=["gain"])


class Changed(nn.Module):
    """The small network with a larger head of another name, a new layer norm, and a gain."""

    def __init__(self, old: dict[str, Tensor]) -> None:
        super().__init__()
        layers = small_model(torch.float64)
        self.add_module("0", layers[0])
        self.add_module("2", nn.LayerNorm(8, dtype=torch.float64))
        self.head = nn.Linear(8, 5, dtype=torch.float64)
        self.gain = nn.Parameter(torch.full((3,), 1.5, dtype=torch.float64))
        draw = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.startswith("head"):
                    p.copy_(torch.randn(p.shape, generator=draw, dtype=p.dtype))
                    p[:3] = old[name.replace("head", "3")]
                elif name.startswith("0"):
                    p.copy_(old[name] + (0.125 if name == "0.weight" else 0))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.get_submodule("2")(torch.tanh(self.get_submodule("0")(x)))
        logits: Tensor = self.head(hidden) * self.gain.mean()
        return logits


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, task: int) -> None:
    for x, y in batches(task, torch.float64)[:STEPS]:
        optimizer.zero_grad()
        F.cross_entropy(model(part(x)), part(y)).backward()
        optimizer.step()


def through_surgery(rank: int, wrap: Wrap, way: Way, folder: Path, surgery: si.Surgery = SURGERY) -> Outcome:
    """One task, surgery, and one more; the path of a third stays as it is."""
    bare: Any = small_model(torch.float64)
    model = wrapped(bare, wrap)
    optimizer, synapses = optimizer_and_synapses(model, "hooks")
    learn(model, optimizer, 0)
    synapses.consolidate()
    bare = Changed({name: full(p.detach()) for name, p in bare.named_parameters()})
    model = wrapped(bare, wrap)
    if way == "attach":
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        synapses.attach(optimizer, model.named_parameters(), surgery=surgery)
    else:
        optimizer, new = optimizer_and_synapses(model, "hooks")
        if way == "state":
            new.load_state_dict(surgery.state(synapses.state_dict(), model.named_parameters()))
        else:
            synapses.save(folder / "old.safetensors")
            surgery.file(folder / "old.safetensors", folder / "new.safetensors", model.named_parameters())
            new.load(folder / "new.safetensors")
        synapses = new
    learn(model, optimizer, 1)
    synapses.consolidate()
    learn(model, optimizer, 2)
    return whole_outcome(bare, synapses)


def paused_then_surgery(rank: int, wrap: Wrap) -> Outcome:
    """Weights that have left their anchor are no error and no warning, and are pulled to where it was."""
    bare: Any = small_model(torch.float64)
    model = wrapped(bare, wrap)
    optimizer, synapses = optimizer_and_synapses(model, "hooks")
    learn(model, optimizer, 0)
    synapses.consolidate()
    with synapses.paused():
        learn(model, optimizer, 1)
    bare = Changed({name: full(p.detach()) for name, p in bare.named_parameters()})
    model = wrapped(bare, wrap)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error", si.SynapseWarning)
        synapses.attach(optimizer, model.named_parameters(), surgery=SURGERY)
    learn(model, optimizer, 1)
    synapses.consolidate()
    learn(model, optimizer, 2)
    return whole_outcome(bare, synapses)


def message_of(rank: int, surgery: si.Surgery) -> str:
    """Return what is raised on this rank."""
    try:
        through_surgery(rank, "fsdp2", "attach", Path(), surgery)
    except si.SynapseError as error:
        return str(error)
    return "nothing was raised"
