"""The plain loop as users of Accelerate write it, in one process or as one of several ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from oracle import small_model
from stacks.jobs import part, whole_outcome
from stacks.plain import STEPS, TASKS, XI, C, Outcome, adam, batches, outcome_of
from torch.distributed.fsdp import fully_shard

from synaptic_intelligence.integrations.accelerate import register_synapses

When = Literal["before", "after"]
ALL = STEPS * TASKS


def accelerator(**options: Any) -> Accelerator:
    """Return one as in a new process: they share a state, which is forgotten."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True, **options)


@dataclass(frozen=True)
class Loop:
    """The batches from ``first`` to ``last`` of three tasks.

    Attributes:
        when: the synapses are made before ``prepare`` or after it.
        dtype: of data and model.
        accumulate, clip: as in the plain loop.
        precision: ``mixed_precision`` of Accelerate.
        load, save: folders of states, from before the first and after the last batch.
    """

    when: When = "after"
    dtype: torch.dtype = torch.float32
    accumulate: int = 1
    clip: float | None = None
    precision: str = "no"
    first: int = 0
    last: int = ALL
    load: Path | None = None
    save: Path | None = None


def train(loop: Loop) -> tuple[Outcome, int]:
    """Train, and return what came out, with the number of steps since the last task."""
    here = accelerator(gradient_accumulation_steps=loop.accumulate, mixed_precision=loop.precision)
    bare = model = small_model(loop.dtype)
    optimizer = adam(model.parameters())
    if loop.when == "before":
        synapses = register_synapses(here, model, optimizer, c=C, xi=XI)
    model, optimizer = here.prepare(model, optimizer)
    if loop.when == "after":
        synapses = register_synapses(here, model, optimizer, c=C, xi=XI)
    if loop.load is not None:
        here.load_state(str(loop.load))
    for number in range(loop.first, loop.last):
        task, step = divmod(number, STEPS)
        x, y = batches(task, loop.dtype)[step]
        with here.accumulate(model):
            here.backward(F.cross_entropy(model(part(x)), part(y)))
            if loop.clip is not None and here.sync_gradients:
                here.clip_grad_norm_(model.parameters(), loop.clip)
            optimizer.step()
            optimizer.zero_grad()
        if step + 1 == STEPS and task + 1 < TASKS:
            synapses.consolidate()
    if loop.save is not None:
        here.save_state(str(loop.save))
        here.wait_for_everyone()
    return outcome_of(bare, synapses), int(synapses.state_dict()["steps"])


@contextmanager
def _as_rank() -> Iterator[None]:
    """What ``accelerate launch`` tells each process; the group of the ranks is there already."""
    ranks = str(dist.get_world_size())
    with patch.dict(os.environ, ACCELERATE_USE_CPU="true", LOCAL_WORLD_SIZE=ranks, OMP_NUM_THREADS="1"):
        yield


def train_as_rank(rank: int, loop: Loop) -> Outcome:
    """Do the same as one of several ranks."""
    with _as_rank():
        return train(loop)[0]


def save_and_load_shards(rank: int, folder: Path) -> tuple[Outcome, Outcome]:
    """Train a model that FSDP2 shards; return the synapses' state as it was saved, and as it is after loading."""
    with _as_rank():
        here, model = accelerator(), small_model()
        for layer in [*model.children(), model]:
            fully_shard(layer)
        optimizer = adam(model.parameters())
        synapses = register_synapses(here, model, optimizer, c=C, xi=XI)
        for number in range(STEPS + 3):
            task, step = divmod(number, STEPS)
            x, y = batches(task, torch.float64)[step]
            optimizer.zero_grad()
            F.cross_entropy(model(part(x)), part(y)).backward()
            optimizer.step()
            if step + 1 == STEPS:
                synapses.consolidate()
        saved = whole_outcome(model, synapses)
        here.save_state(str(folder))
        here.wait_for_everyone()
        synapses.consolidate()
        here.load_state(str(folder))
        return saved, whole_outcome(model, synapses)
