"""Importance by the diagonal of the Fisher information: elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance.data import bare, batches, group_of, in_turn, reshard, undisturbed
from synaptic_intelligence.importance.estimator import TaskEnd
from synaptic_intelligence.sharding import is_sharded, local, placed_like

Loss = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["exact", "empirical"]


@final
class Fisher:
    """Importance is the mean square of the gradient of one sample's log-likelihood, summed over tasks.

    With ``kind="exact"`` the labels are drawn from the model itself: all classes are summed, weighted by their
    softmax probability. With ``kind="empirical"`` they are the data's. Gradients are per sample, never of a batch's
    mean. The model is evaluated in eval mode; its training flags, buffers and all random state stay as they were.
    Where several processes train it, the data of all counts, and each is given its part. In DDP (give the wrapped
    model) they estimate side by side; sharded by FSDP2, they take one sample at a time together: slow.

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
        model = bare(self.model)
        reshard(model)
        group = group_of(self.model)
        own = {id(parameter): name for name, parameter in model.named_parameters()}
        lost = [name for name, parameter in end.parameters.items() if id(parameter) not in own]
        if lost:
            raise SynapseError(
                f"{lost} are protected but not in the model that Fisher was given: give it the same model"
            )
        names = {own[id(p)]: name for name, p in end.parameters.items() if p.requires_grad}
        theta = {inner: end.parameters[name] for inner, name in names.items()}
        total = {name: torch.zeros_like(anchor) for name, anchor in end.anchor.items()}  # omega may have few digits
        sharded = any(map(is_sharded, theta.values()))
        samples, squares = 0, self._squares_one_by_one if sharded else self._squares
        found_in = in_turn(batches(end.data), group) if sharded else batches(end.data)
        with undisturbed(model, group), torch.enable_grad():
            for inputs, targets in found_in:
                for x, y in zip(inputs.split(self.chunk_size), targets.split(self.chunk_size), strict=True):
                    for label, weight in self._labels(model, x, y):
                        try:
                            found = squares(model, theta, x, label, weight)
                        except RuntimeError as reason:
                            if squares == self._squares_one_by_one or isinstance(reason, torch.OutOfMemoryError):
                                raise
                            # What vmap cannot run (control flow that depends on data, an old autograd.Function, random
                            # numbers) is the same sum one sample at a time; a mistake of the user's own raises there.
                            squares = self._squares_one_by_one
                            found = squares(model, theta, x, label, weight)
                            _warn_of_loop(reason)
                        for inner, square in found.items():
                            local(total[names[inner]]).add_(square)
                samples += len(inputs)
        if group is not None and not sharded:
            samples = _summed_over(group, total, samples)
        if samples == 0:
            raise SynapseError("data held no samples; pass batches of (inputs, targets) of the task that ends")
        return {name: omega + total[name] / samples for name, omega in end.omega.items()}

    def _labels(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield labels for the samples, and the weight of each."""
        if self.kind == "empirical":
            yield y, torch.ones(len(x), device=x.device)
            return
        with torch.no_grad():
            output = model(x)
        if not isinstance(output, Tensor) or output.ndim != 2:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"kind='exact' needs logits [samples, classes], the model gave {shape}: use kind='empirical'"
            )
        for label, weight in enumerate(output.to(_wide(output)).softmax(dim=1).unbind(dim=1)):
            if bool(weight.any()):  # classes that are masked out have no probability, and an infinite loss
                yield torch.full((len(x),), label, device=x.device), weight

    def _squares(
        self, model: nn.Module, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Return the weighted sum over samples of the squared gradients of each sample's loss."""

        def sample_loss(parameters: dict[str, Tensor], one_x: Tensor, one_y: Tensor) -> Tensor:
            return self.loss(functional_call(model, parameters, (one_x[None],)), one_y[None])

        detached = {name: parameter.detach() for name, parameter in theta.items()}
        # `grad` records inside; outside, parameters that are not protected would hang every chunk's graph on the sum.
        with torch.no_grad():
            gradients = vmap(grad(sample_loss), in_dims=(None, 0, 0))(detached, x, y)
        return {name: _weighted(g, weight) for name, g in gradients.items()}

    def _squares_one_by_one(
        self, model: nn.Module, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Return what :meth:`_squares` does, by one backward pass for each sample."""
        total: dict[str, Tensor] = {}
        for one_x, one_y, one_weight in zip(x.split(1), y.split(1), weight.split(1), strict=True):
            gradients = _gradients(self.loss(model(one_x), one_y), model, list(theta.values()))
            for name, g in zip(theta, gradients, strict=True):
                if g is not None:
                    square = _weighted(g[None], one_weight)
                    total[name] = total[name] + square if name in total else square
        return total


def _gradients(loss: Tensor, model: nn.Module, parameters: list[Tensor]) -> list[Tensor | None]:
    """Return the gradients, of sharded parameters the parts that lie here."""
    if not any(map(is_sharded, parameters)):
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    # FSDP2 reduces gradients on their way into p.grad: the mean over processes, which all have the same sample.
    model.zero_grad(set_to_none=True)
    loss.backward()
    return [None if p.grad is None else local(placed_like(p.grad, p)) for p in parameters]


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


def _summed_over(group: Any, total: Mapping[str, Tensor], samples: int) -> int:
    """Add up what the processes of a group have found, each from its own data; return how many samples they had."""
    for tensor in total.values():
        dist.all_reduce(tensor, group=group)
    counts: list[int] = [0] * dist.get_world_size(group)
    dist.all_gather_object(counts, samples, group=group)
    return sum(counts)
