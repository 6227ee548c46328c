"""Frameworks whose own loop runs on several ranks, each with its part of the plain loop's batches."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from oracle import small_model
from stacks.jobs import part
from stacks.plain import TASKS, XI, C, Outcome, adam, batches, outcome_of
from torch import Tensor


def fit_by_lightning(rank: int) -> Outcome:
    """One fit with ``strategy="ddp"``, whose epochs are the tasks, in float64."""
    import lightning.pytorch as pl
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    from synaptic_intelligence.integrations.lightning import SynapticCallback

    class Parts:
        def __init__(self, task: int) -> None:
            self.task = task

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield from ((part(x), part(y)) for x, y in batches(self.task, torch.float64))

    class Network(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            for name, layer in small_model(torch.float64).named_children():
                self.add_module(name, layer)

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            for layer in self.children():
                x = layer(x)
            return F.cross_entropy(x, y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adam(self.parameters())

        def train_dataloader(self) -> Parts:
            return Parts(self.current_epoch)

        def on_train_epoch_end(self) -> None:
            if self.current_epoch + 1 < TASKS:
                synaptic.synapses.consolidate()

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    synaptic, network = SynapticCallback(c=C, xi=XI, boundary="manual"), Network()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own
        trainer: Any = pl.Trainer(
            accelerator="cpu",
            strategy="ddp",
            devices=2,
            plugins=[LightningEnvironment()],
            max_epochs=TASKS,
            reload_dataloaders_every_n_epochs=1,
            enable_model_summary=False,
            precision="64-true",
            **quiet,
        )
        trainer.callbacks.append(synaptic)
        trainer.fit(network)
    return outcome_of(network, synaptic.synapses)


def train_by_trainer(rank: int, folder: Path) -> Outcome:
    """Three calls of the Trainer's ``train``, one for each task, in float32."""
    from accelerate.state import AcceleratorState, GradientState
    from stacks.trainers import AtEnd, Classifier, rows, synaptic, trainer_of

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    callback = synaptic()
    end = AtEnd(callback)
    told = {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    with patch.dict(os.environ, told), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Trainer's own
        options: dict[str, Any] = {"per_device_train_batch_size": 8, "ddp_backend": "gloo"}
        trainer = trainer_of(folder / str(rank), Classifier(), [], end, callback, **options)
        for task in range(TASKS):
            trainer.train_dataset = rows(task)
            trainer.train()
    assert end.outcome is not None
    assert trainer.args.world_size == 2
    return end.outcome
