"""Quiet Trainers of Hugging Face that take the plain loop's batches in its order."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

import pytest
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState
from oracle import small_model
from stacks.plain import RATE, XI, C, Outcome, batches, outcome_of
from torch import Tensor, float32, nn, optim
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from synaptic_intelligence.integrations.huggingface import SynapticCallback

Rows = list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def fast_and_tidy() -> Iterator[None]:
    """``train()`` collects garbage, slowly where so much is imported; Accelerate leaves a state behind."""
    gc.freeze()
    yield
    gc.unfreeze()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@final
class Classifier(nn.Module):
    """The plain loop's model, by the same names, with its loss as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        for name, layer in small_model(float32).named_children():
            self.add_module(name, layer)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        for layer in self.children():
            x = layer(x)
        return {"logits": x} if labels is None else {"loss": F.cross_entropy(x, labels), "logits": x}


def adamw(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """What the Trainer makes by itself."""
    return optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)


def sgd(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """An optimizer that remembers nothing, so that a fresh one is the same as an old one."""
    return optim.SGD(parameters, lr=10 * RATE)


def rows(task: int) -> Rows:
    """The plain loop's batches of a task, sample by sample."""
    steps = batches(task)
    return [{"x": x, "labels": label} for inputs, labels in steps for x, label in zip(inputs, labels, strict=True)]


def synaptic(**options: Any) -> SynapticCallback:
    return SynapticCallback(c=C, xi=XI, **options)


def trainer_of(
    folder: Path,
    model: nn.Module | None,
    data: Rows,
    *callbacks: TrainerCallback,
    parts: dict[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """A Trainer with ``parts`` of its own and ``options`` in its arguments, and otherwise without anything extra."""
    plain = {
        "per_device_train_batch_size": 16,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    arguments = TrainingArguments(str(folder), **{**plain, **options})
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[*callbacks], **(parts or {}))
    trainer.remove_callback(PrinterCallback)
    return trainer


@final
class AtEnd(TrainerCallback):
    """Keeps the outcome of each ``train()``; give it before the synapses, so that the last path is still there."""

    def __init__(self, synaptic: SynapticCallback) -> None:
        self._synaptic = synaptic
        self.outcome: Outcome | None = None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **by: Any) -> None:
        self.outcome = outcome_of(by["model"], self._synaptic.synapses)


@final
class Crash(TrainerCallback):
    """Breaks training off by an exception, after this many steps."""

    def __init__(self, after: int) -> None:
        self._after = after

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **by: Any) -> None:
        if state.global_step == self._after:
            raise KeyboardInterrupt


@final
class Stop(TrainerCallback):
    """Asks to end training early, after this many steps."""

    def __init__(self, after: int) -> None:
        self._after = after

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **by: Any) -> None:
        if state.global_step == self._after:
            control.should_training_stop = True
