"""Synapses in the Trainer of Lightning: one callback."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

import synaptic_intelligence as si

try:
    import lightning.pytorch as pl
    from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
except ImportError as error:
    hint = 'pip install "synaptic-intelligence[lightning]"'
    raise ImportError(f"the callback needs lightning, and pytorch_lightning will not do: {hint}") from error


@final
class SynapticCallback(pl.Callback):
    """Synapses in a ``Trainer``: they watch its optimizer, are in its checkpoints, and end a task with it.

    One ``fit()`` is one task. Give the next one the same callback; trainer and optimizer may be new.

    Args:
        c, omega_dtype: as for :class:`~synaptic_intelligence.Consolidator`.
        xi: damping of the path integral, in theta^2.
        importance: another estimator than the path integral, instead of ``xi``.
        protect: by name, whether a parameter gets synapses; by default all that are trained do.
        boundary: ``"fit"``: a task ends with ``fit()``, also where early stopping or ``max_time`` ended it, but not
            where it raised. ``"manual"``: where you call ``callback.synapses.consolidate()``.
        start: what ``callback.synapses.save(path)`` wrote after an earlier task, to go on from in another process.

    Raises:
        ValueError: both or neither of ``xi`` and ``importance``; an estimator that needs data at ``"fit"``.
        SynapseError: when ``fit()`` begins: a strategy that shards, or whose processes end with it; a checkpoint
            without synapses; other weights than those of ``start``; protected parameters not in one optimizer.

    Example:
        >>> import lightning.pytorch as pl
        >>> callback = SynapticCallback(c=0.1, xi=0.1, protect=lambda name: not name.startswith("head"))
        >>> trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, callbacks=[callback])
        >>> callback.synapses  # trainer.fit(model, data) makes them, and is the first task
        Traceback (most recent call last):
        ...
        synaptic_intelligence.errors.SynapseError: there are no synapses yet: they are made when fit() starts to train
    """

    def __init__(
        self,
        *,
        c: float | Tensor,
        xi: float | None = None,
        importance: si.Importance | None = None,
        omega_dtype: torch.dtype | None = None,
        protect: Callable[[str], bool] = lambda name: True,
        boundary: Literal["fit", "manual"] = "fit",
        start: str | Path | None = None,
    ) -> None:
        importance = si.importance_of(xi, importance)
        if boundary not in ("fit", "manual"):
            raise ValueError(f"boundary must be 'fit' or 'manual', not {boundary!r}")
        if boundary == "fit" and importance.needs_data:
            raise ValueError(f"{importance.name} needs data: give boundary='manual', call synapses.consolidate(data)")
        self._make = partial(si.Consolidator, importance=importance, c=c, omega_dtype=omega_dtype)
        self._protect, self._boundary, self._start, self._process = protect, boundary, start, os.getpid()
        self._synapses: si.Consolidator | None = None
        self._loaded: dict[str, Any] | None = None  # for synapses that are not made yet
        self._resumed = False  # a state was loaded, and no training went on from it yet
        self._seen: set[int] = set()  # the parameters of the last fit; its synapses keep them alive

    @property
    def synapses(self) -> si.Consolidator:
        """The synapses; there are none before training starts."""
        if self._synapses is None:
            raise si.SynapseError("there are no synapses yet: they are made when fit() starts to train")
        return self._synapses

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse strategies that would lose the synapses."""
        if stage == "fit" and os.getpid() != self._process:
            raise si.SynapseError("this strategy's processes end with fit(), and the synapses with them: use 'ddp'")
        if stage == "fit" and isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            raise si.SynapseError("this strategy shards parameters, but saves the callbacks of one rank: use 'ddp'")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the synapses, or move them here: by now a checkpoint is loaded, and a learning rate is found."""
        self._hold(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the task; a ``fast_dev_run`` is none."""
        if self._boundary == "fit" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.synapses.consolidate()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the task of a fit that was resumed after its last step, so that training neither started nor ended."""
        if self._resumed and self._hold(trainer, pl_module).state_dict()["steps"]:
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the synapses, for a checkpoint."""
        return {"synapses": self._loaded if self._synapses is None else self._synapses.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        if self._synapses is None:
            self._loaded = state_dict["synapses"]
        else:
            self._synapses.load_state_dict(state_dict["synapses"])
        self._resumed = True

    def on_load_checkpoint(self, trainer: pl.Trainer, _: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave the synapses as they are where weights are loaded only to be tested."""
        if trainer.state.fn != "fit":
            checkpoint["callbacks"].pop(self.state_key, None)
        elif self.state_key not in checkpoint["callbacks"]:
            raise si.SynapseError("the checkpoint has no synapses to resume: load_from_checkpoint() its weights alone")

    def _hold(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> si.Consolidator:
        named = {name: p for name, p in pl_module.named_parameters() if self._protect(name)}
        if any(isinstance(p, DTensor) for p in named.values()):
            raise si.SynapseError("parameters are sharded, but Lightning saves the callbacks of one rank: use 'ddp'")
        ids = {id(p) for p in named.values()}
        holding = [o for o in trainer.optimizers if any(id(p) in ids for g in o.param_groups for p in g["params"])]
        if len(holding) != 1:
            raise si.SynapseError(f"protected parameters are in {len(holding)} optimizers: protect those of one")
        if self._synapses is not None and self._resumed and ids != self._seen:  # its network is gone
            self._loaded = self._synapses.state_dict()
            self._synapses.detach()
            self._synapses = None
        if self._synapses is not None:
            self._synapses.attach(holding[0], named.items())
        else:
            synapses = self._make(named.items(), holding[0])
            if self._loaded is not None:
                synapses.load_state_dict(self._loaded)
            elif self._start is not None:
                synapses.load(self._start)
                if synapses.penalty() > 0:
                    raise si.SynapseError("the weights are not those that start= was saved with: load them first")
            self._synapses, self._loaded = synapses, None
        self._seen, self._resumed = ids, False
        return self._synapses
