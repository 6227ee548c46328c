"""Importance by the diagonal of the Fisher information: elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance.estimator import TaskEnd

Loss = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["exact", "empirical"]


@final
class Fisher:
    """Importance is the mean square of the gradient of one sample's log-likelihood, summed over tasks.

    With ``kind="exact"`` the labels are drawn from the model itself: all classes are summed, weighted by their
    softmax probability. With ``kind="empirical"`` they are the data's. Gradients are per sample, never of a batch's
    mean. The model is evaluated in eval mode; its training flags, buffers and all random state stay as they were.

    Args:
        model: the network whose parameters are protected; called with a batch of inputs.
        loss: ``loss(output, target)``, the negative log-likelihood of a batch, such as ``F.cross_entropy``.
        kind: ``"exact"`` (needs outputs ``[samples, classes]`` that are logits) or ``"empirical"``.
        chunk_size: samples whose gradients are held at the same time, so memory is ``chunk_size`` times the parameters.

    Raises:
        ValueError: ``kind`` is unknown, or ``chunk_size`` is not a positive whole number.

    In the terms of Kirkpatrick et al., ``c = lambda / 2``.

    Source: Kirkpatrick et al. 2017, *Overcoming catastrophic forgetting in neural networks*, eq. 3; summed over tasks
    with one anchor as in Huszar 2018, *Note on the quadratic penalties in elastic weight consolidation*.

    Example:
        >>> import torch, torch.nn.functional as F, synaptic_intelligence as si
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> fisher = si.Fisher(model, F.cross_entropy, kind="exact")
        >>> synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=50.0)
        >>> data = [(torch.randn(8, 4), torch.randint(3, (8,)))]  # or a DataLoader
        >>> _ = synapses.consolidate(data)
        >>> synapses.omega["weight"].shape
        torch.Size([3, 4])
    """

    name: ClassVar[str] = "fisher"
    needs_data: ClassVar[bool] = True
    integrates_path: ClassVar[bool] = False

    def __init__(self, model: nn.Module, loss: Loss, *, kind: Kind, chunk_size: int = 64) -> None:
        if kind not in ("exact", "empirical"):
            raise ValueError(f"kind must be 'exact' or 'empirical', not {kind!r}")
        if not (isinstance(chunk_size, int) and chunk_size > 0):
            raise ValueError(f"chunk_size must be a positive whole number, not {chunk_size!r}")
        self.model, self.loss, self.kind, self.chunk_size = model, loss, kind, chunk_size

    def settings(self) -> dict[str, float | str]:
        """Return ``kind``; ``chunk_size`` does not change the numbers."""
        return {"kind": self.kind}

    def new_omega(self, end: TaskEnd) -> dict[str, Tensor]:
        """Return omega plus the diagonal Fisher of this task's data, for each parameter.

        Raises:
            SynapseError: a protected parameter is not in the model, or the data is empty.
            TypeError: the data is not batches of (inputs, targets).
            ValueError: ``kind="exact"`` and the outputs are not ``[samples, classes]``.
        """
        assert end.data is not None  # the consolidator has seen to it
        own = {id(parameter): name for name, parameter in self.model.named_parameters()}
        lost = [name for name, parameter in end.parameters.items() if id(parameter) not in own]
        if lost:
            raise SynapseError(
                f"{lost} are protected but not in the model that Fisher was given: give it the same model"
            )
        names = {own[id(p)]: name for name, p in end.parameters.items() if p.requires_grad}
        theta = {inner: end.parameters[name] for inner, name in names.items()}
        total = {name: torch.zeros_like(anchor) for name, anchor in end.anchor.items()}  # omega may have few digits
        samples, squares = 0, self._squares
        with _undisturbed(self.model), torch.enable_grad():
            for inputs, targets in _batches(end.data):
                for x, y in zip(inputs.split(self.chunk_size), targets.split(self.chunk_size), strict=True):
                    for label, weight in self._labels(x, y):
                        try:
                            found = squares(theta, x, label, weight)
                        except RuntimeError as reason:
                            if squares == self._squares_one_by_one or isinstance(reason, torch.OutOfMemoryError):
                                raise
                            # What vmap cannot run (control flow that depends on data, an old autograd.Function, random
                            # numbers) is the same sum one sample at a time; a mistake of the user's own raises there.
                            squares = self._squares_one_by_one
                            found = squares(theta, x, label, weight)
                            _warn_of_loop(reason)
                        for inner, square in found.items():
                            total[names[inner]] += square
                samples += len(inputs)
        if samples == 0:
            raise SynapseError("data held no samples; pass batches of (inputs, targets) of the task that ends")
        return {name: omega + total[name] / samples for name, omega in end.omega.items()}

    def _labels(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield labels for the samples, and the weight of each."""
        if self.kind == "empirical":
            yield y, torch.ones(len(x), device=x.device)
            return
        with torch.no_grad():
            output = self.model(x)
        if not isinstance(output, Tensor) or output.ndim != 2:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"kind='exact' needs logits [samples, classes], the model gave {shape}: use kind='empirical'"
            )
        for label, weight in enumerate(output.to(_wide(output)).softmax(dim=1).unbind(dim=1)):
            if bool(weight.any()):  # classes that are masked out have no probability, and an infinite loss
                yield torch.full((len(x),), label, device=x.device), weight

    def _squares(self, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Return the weighted sum over samples of the squared gradients of each sample's loss."""

        def sample_loss(parameters: dict[str, Tensor], one_x: Tensor, one_y: Tensor) -> Tensor:
            return self.loss(functional_call(self.model, parameters, (one_x[None],)), one_y[None])

        detached = {name: parameter.detach() for name, parameter in theta.items()}
        # `grad` records inside; outside, parameters that are not protected would hang every chunk's graph on the sum.
        with torch.no_grad():
            gradients = vmap(grad(sample_loss), in_dims=(None, 0, 0))(detached, x, y)
        return {name: _weighted(g, weight) for name, g in gradients.items()}

    def _squares_one_by_one(
        self, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Return what :meth:`_squares` does, by one backward pass for each sample."""
        total: dict[str, Tensor] = {}
        for one_x, one_y, one_weight in zip(x.split(1), y.split(1), weight.split(1), strict=True):
            loss = self.loss(self.model(one_x), one_y)
            gradients = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
            for name, g in zip(theta, gradients, strict=True):
                if g is not None:
                    square = _weighted(g[None], one_weight)
                    total[name] = total[name] + square if name in total else square
        return total


def _weighted(gradients: Tensor, weight: Tensor) -> Tensor:
    """Return ``sum_i weight_i * gradients_i ** 2``, float32 or wider."""
    wide = _wide(gradients)
    # A label without probability counts for nothing, also where its loss is infinite and has no gradient.
    counts = weight != 0
    if not bool(counts.all()):
        gradients, weight = gradients[counts], weight[counts]
    # One copy of the gradients and no more: they are samples times parameters, and memory is what takes time.
    total: Tensor = torch.tensordot(weight.to(wide), gradients.to(wide).square(), dims=1)
    return total


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _warn_of_loop(reason: RuntimeError) -> None:
    first_line = str(reason).split("\n", 1)[0]
    warn(f"vmap cannot run this model ({first_line}); Fisher goes one sample at a time: slower, the same numbers")


def _batches(data: object) -> Iterator[tuple[Tensor, Tensor]]:
    message = "data must be an iterable of (inputs, targets) batches of equal length, such as a DataLoader or [(x, y)]"
    if isinstance(data, Tensor) or (isinstance(data, tuple) and any(isinstance(part, Tensor) for part in data)):
        raise TypeError(f"{message}; wrap a single batch in a list")
    if not isinstance(data, Iterable):
        raise TypeError(f"{message}, not {type(data).__name__}")
    for batch in data:
        match batch:
            case (Tensor() as inputs, Tensor() as targets) if len(inputs) == len(targets):
                yield inputs, targets
            case _:
                raise TypeError(f"{message}; got a batch of type {type(batch).__name__}")


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode; leave training flags and random state as they were found."""
    training = [module for module in model.modules() if module.training]
    buffers = [
        (module, name, buffer, buffer.clone(), buffer._version)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):
        try:
            model.eval()
            yield
        finally:
            for module in training:
                module.training = True
            for module, name, buffer, before, version in buffers:
                setattr(module, name, buffer)  # a model may change its buffers in eval mode too, or replace them
                if buffer._version != version:
                    buffer.copy_(before)
