"""A tiny experiment, trained in a moment, and what runs, stops and resumes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from synaptic_intelligence.experiments.experiment import Experiment
from synaptic_intelligence.experiments.folder import resume_run, start_run
from synaptic_intelligence.experiments.plan import Message, Plan
from synaptic_intelligence.experiments.runner import run
from synaptic_intelligence.experiments.settings import Settings
from synaptic_intelligence.result import Result
from synaptic_intelligence.tasks import Stream, Task, split_by_class

SETTINGS = Settings(seeds=2, first_seed=3, c=(0.0, 50.0), xi=1e-3, epochs=2, batch_size=8, lr=0.02, tasks=3)


def network(generator: torch.Generator) -> nn.Module:
    hidden, output = nn.utils.skip_init(nn.Linear, 6, 16), nn.utils.skip_init(nn.Linear, 16, 6)
    for parameter in (*hidden.parameters(), *output.parameters()):
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return nn.Sequential(hidden, nn.ReLU(), output)


def blobs(examples: int = 240, tested: int = 60) -> Task:
    """Six classes, each a cloud of points in six dimensions."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(6, (examples,), generator=generator)
    inputs = torch.randn(6, 6, generator=generator)[targets] + torch.randn(examples, 6, generator=generator)
    train, test = slice(examples - tested), slice(examples - tested, examples)
    return Task("blobs", inputs[train], targets[train], inputs[test], targets[test], classes=tuple(range(6)))


def stream(data_dir: Path | None = None, tasks: int = 3) -> Stream:
    return split_by_class(blobs(), ((0, 1), (2, 3), (4, 5))[:tasks])


def task_names(tasks: int) -> tuple[str, ...]:
    return ("0/1", "2/3", "4/5")[:tasks]


TINY = Experiment(
    name="tiny",
    title="Tiny",
    what="three tasks of two blobs",
    source="nowhere",
    paper=SETTINGS,
    quick=SETTINGS,
    protocol={"network": "6-16-6"},
    task_names=task_names,
    most_tasks=3,
    chance=0.5,
    multi_head=True,
    fresh_optimizer=True,
    network=network,
    stream=stream,
)


def ignore(message: Message) -> None:
    pass


def start(plan: Plan, listen: Callable[[Message], None] = ignore) -> Result:
    result = start_run(plan, 1, "synaptic run tiny", overwrite=False)
    return run(plan, result, {}, 1, listen)


def resume(plan: Plan, listen: Callable[[Message], None] = ignore) -> Result:
    return run(plan, *resume_run(plan, 1), 1, listen)


def numbers(result: Result) -> list[object]:
    """Everything in a result that must be the same, however and whenever it was made."""
    return [
        (r.seed, r.method, r.c, r.accuracy, r.baseline, r.train_accuracy, r.final_train_accuracy, r.path_correlation)
        for r in result.runs
    ]


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


def stop_at(message_number: int, heard: list[Message] | None = None) -> Callable[[Message], None]:
    heard = [] if heard is None else heard

    def listen(message: Message) -> None:
        heard.append(message)
        if len(heard) == message_number:
            raise Stop

    return listen
