"""Synapses in the Trainer of Hugging Face, with or without adapters of PEFT: one callback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

import synaptic_intelligence as si

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError('callbacks of the Trainer need pip install "synaptic-intelligence[huggingface]"') from error

_FILE, _WEIGHTS = "synapses.safetensors", "synapses.json"  # in a checkpoint; the second has digests of its weights


@final
class SynapticCallback(TrainerCallback):
    """Synapses in a ``Trainer``: they watch its optimizer, are saved with its checkpoints, and end a task with it.

    One ``train()`` is one task. Give the next one the same callback; Trainer, optimizer and model may be new.

    Args:
        c, omega_dtype: as for :class:`~synaptic_intelligence.Consolidator`.
        xi: damping of the path integral, in theta^2.
        importance: another estimator than the path integral, instead of ``xi``.
        protect: by name, whether a parameter gets synapses; by default all that are trained do.
        boundary: ``"train"``: a task ends with ``train()``, also where a callback stopped it early, but not where it
            raised. ``"manual"``: where you call ``callback.synapses.consolidate()``.
        start: what ``callback.synapses.save(path)`` wrote after an earlier task, to go on from in another process.

    Raises:
        ValueError: both or neither of ``xi`` and ``importance``, a wrong ``boundary``; in ``train()``, all is frozen.
        SynapseError: in ``train()``: sharding, a checkpoint without synapses of its weights, a model with others.

    Example:
        >>> import tempfile, torch, transformers
        >>> class Line(torch.nn.Linear):
        ...     def forward(self, x, labels):
        ...         return {"loss": (super().forward(x) - labels).square().mean()}
        >>> callback, data = SynapticCallback(c=1.0, xi=0.1), [{"x": torch.ones(2), "labels": torch.ones(1)}]
        >>> args = transformers.TrainingArguments(tempfile.mkdtemp(), use_cpu=True, report_to="none", disable_tqdm=True)
        >>> trainer = transformers.Trainer(Line(2, 1), args, train_dataset=data, callbacks=[callback])
        >>> trainer.train()  # doctest: +ELLIPSIS
        {'train_runtime': ...
        >>> callback.synapses.tasks, sorted(callback.synapses.omega)
        (1, ['bias', 'weight'])
    """

    def __init__(
        self,
        *,
        c: float | Tensor,
        xi: float | None = None,
        importance: si.Importance | None = None,
        omega_dtype: torch.dtype | None = None,
        protect: Callable[[str], bool] = lambda name: True,
        boundary: Literal["train", "manual"] = "train",
        start: str | Path | None = None,
    ) -> None:
        importance = si.importance_of(xi, importance)
        if boundary not in ("train", "manual"):
            raise ValueError(f"boundary must be 'train' or 'manual', not {boundary!r}")
        if boundary == "train" and importance.needs_data:
            raise ValueError(f"{importance.name} needs data: with boundary='manual' call synapses.consolidate(data)")
        self._make = partial(si.Consolidator, importance=importance, c=c, omega_dtype=omega_dtype)
        self._protect, self._boundary, self._start = protect, boundary, start
        self._synapses: si.Consolidator | None = None
        self._named: dict[str, Tensor] = {}

    @property
    def synapses(self) -> si.Consolidator:
        """The synapses; there are none before training begins."""
        if self._synapses is None:
            raise si.SynapseError("there are no synapses yet: they are made when train() begins")
        return self._synapses

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **by: Any) -> None:
        """Make the synapses or move them to this Trainer's optimizer; load them if it resumes."""
        named = {n.removeprefix("_orig_mod."): p for n, p in by["model"].named_parameters() if p.requires_grad}
        optimizer, named = by["optimizer"], {n: p for n, p in named.items() if self._protect(n)}
        if not named:
            raise ValueError("nothing to protect: all parameters are frozen, or protect is true of none that is not")
        sharded = any(isinstance(p, DTensor) for p in named.values())
        if isinstance(optimizer, AcceleratedOptimizer):
            sharded |= optimizer.accelerator_state.distributed_type in ("FSDP", "DEEPSPEED", "MEGATRON_LM")
            optimizer = optimizer.optimizer  # the wrapper has no hooks
        if sharded:
            raise si.SynapseError("sharded training: checkpoints would get the synapses of one process alone")
        synapses = self._synapses = self._synapses or self._make(named.items(), optimizer)
        if state.global_step:  # only a Trainer that resumes begins above zero; no event tells from where
            places = (args.resume_from_checkpoint, f"{args.output_dir}/checkpoint-{state.global_step}")
            synapses.load(_saved([str(place) for place in places if place], named))
        elif any(named.get(name) is not self._named.get(name) for name in synapses.anchor):
            if self._start is not None and not self._named:
                synapses.load(self._start)
            _refuse_others(synapses, named)
        synapses.attach(optimizer, named.items())
        self._named = {name: named[name] for name in synapses.anchor}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **by: Any) -> None:
        """Save the synapses in the checkpoint, and digests of the weights that they belong to."""
        folder = Path(f"{args.output_dir}/checkpoint-{state.global_step}")
        if args.should_save and folder.is_dir():  # where few are kept, the Trainer may have removed it again
            self.synapses.save(folder / _FILE)
            (folder / _WEIGHTS).write_text(json.dumps({n: _digest(p) for n, p in self._named.items()}))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **by: Any) -> None:
        """End the task; where the Trainer went back to the best step, as if training had stopped there."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.synapses.load(_saved([state.best_model_checkpoint], self._named))
        if self._boundary == "train":
            self.synapses.consolidate()


def _saved(places: list[str], named: Mapping[str, Tensor]) -> Path:
    """Return the synapses in the one of these checkpoints where they belong to just these weights."""
    other: list[str] = []
    for folder in map(Path, places):
        if (folder / _WEIGHTS).is_file():
            digests = json.loads((folder / _WEIGHTS).read_text())
            other = [n for n, digest in digests.items() if n not in named or _digest(named[n]) != digest]
            if not other:
                return folder / _FILE
    why = f"those there belong to others: {other}" if other else "if elsewhere, say so in args.resume_from_checkpoint"
    raise si.SynapseError(f"no synapses of these weights in {places}; {why}")


def _refuse_others(synapses: si.Consolidator, named: Mapping[str, Tensor]) -> None:
    """Raise unless new parameters are as the last task left them, and no step was taken since."""
    if any(bool(path.any()) for path in synapses.path.values()):
        raise si.SynapseError("another model in the middle of a task: resume from a checkpoint, or consolidate() first")
    other = [n for n, old in synapses.anchor.items() if n not in named or not torch.equal(named[n].to(old), old)]
    if synapses.tasks and other:
        raise si.SynapseError(f"another model, without the weights that the last task ended with: {other}")


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
