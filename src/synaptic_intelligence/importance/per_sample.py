"""Means over samples of a function of each sample's gradient, for estimators that look at the end point of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance.data import bare, batches, group_of, in_turn, reshard, undisturbed
from synaptic_intelligence.importance.estimator import TaskEnd
from synaptic_intelligence.importance.linear_layers import factors_kept, find_linear_layers
from synaptic_intelligence.sharding import is_sharded, local, placed_like

Objective = Callable[[Any, Tensor], Tensor]
"""Of the output for one sample, a batch of one, and its target: a tensor without dimensions."""

Targets = Callable[[nn.Module, Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]
"""Of the model, a chunk of inputs and its targets: targets in their place, with the weight of each sample."""

Of = Callable[[Tensor], Tensor]
"""Of gradients ``[samples, ...]``, element by element, and multiplicative: that of a product is the product of both."""

_Sums = Callable[[nn.Module, Mapping[str, Tensor], Objective, Of, tuple[Tensor, Tensor, Tensor]], Mapping[str, Tensor]]


def mean_over_samples(
    end: TaskEnd,
    model: nn.Module,
    objective: Objective,
    of: Of,
    targets: Targets,
    *,
    chunk_size: int,
    estimator: str,
) -> dict[str, Tensor]:
    """Return the mean over all samples of ``sum weight * of(gradient of the objective)``, for each parameter.

    The model is evaluated in eval mode, and left as it was. The data of all processes counts: in DDP they go side by
    side, sharded by FSDP2 one sample at a time together. What vmap cannot run goes one sample at a time, with a
    warning.

    Args:
        end: parameters, and data as batches of (inputs, targets).
        model: what the estimator was given, perhaps wrapped.
        objective, of, targets: see their types.
        chunk_size: samples whose gradients are held at the same time; of linear layers their factors alone.
        estimator: how messages call it.

    Raises:
        SynapseError: a protected parameter is not in the model, or the data is empty.
        TypeError: the data is not batches of (inputs, targets).

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> anchor, zeros = {"weight": torch.zeros(1, 2)}, {"weight": torch.zeros(1, 2)}
        >>> data = [(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2))]
        >>> end = TaskEnd(dict(model.named_parameters()), anchor, {}, zeros, data)
        >>> once = lambda model, x, y: iter([(y, torch.ones(len(x)))])
        >>> output = lambda output, target: output.sum()  # so that the gradient is the input itself
        >>> mean_over_samples(end, model, output, torch.square, once, chunk_size=2, estimator="mine")
        {'weight': tensor([[5., 2.]])}
    """
    inner = bare(model)
    reshard(inner)
    group = group_of(model)
    own = names_in(inner, end.parameters, estimator)
    names = {own[name]: name for name, parameter in end.parameters.items() if parameter.requires_grad}
    theta = {place: end.parameters[name] for place, name in names.items()}
    total = {name: torch.zeros_like(anchor) for name, anchor in end.anchor.items()}  # omega may have few digits
    sharded = any(map(is_sharded, theta.values()))
    samples = 0
    sums: _Sums = _one_by_one if sharded else _side_by_side
    found_in = in_turn(batches(end.data), group) if sharded else batches(end.data)
    with undisturbed(inner, group), torch.enable_grad():
        for inputs, labels in found_in:
            for x, y in zip(inputs.split(chunk_size), labels.split(chunk_size), strict=True):
                for target, weight in targets(inner, x, y):
                    try:
                        found = sums(inner, theta, objective, of, (x, target, weight))
                    except RuntimeError as reason:
                        if sums == _one_by_one or isinstance(reason, torch.OutOfMemoryError):
                            raise
                        # What vmap cannot run (control flow that depends on data, an old autograd.Function, random
                        # numbers) is the same sum one sample at a time; a mistake of the user's own raises there.
                        sums = _one_by_one
                        found = sums(inner, theta, objective, of, (x, target, weight))
                        _warn_of_loop(estimator, reason)
                    for place, value in found.items():
                        local(total[names[place]]).add_(value)
            samples += len(inputs)
    if group is not None and not sharded:
        samples = _summed_over(group, total, samples)
    refuse_no_samples(samples)
    return {name: value.div_(samples) for name, value in total.items()}


def names_in(model: nn.Module, parameters: Mapping[str, Tensor], estimator: str) -> dict[str, str]:
    """Return the names that the parameters have in the model, by their own.

    Raises:
        SynapseError: one is not in the model.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> names_in(model, {"head": model.weight}, "Fisher")
        {'head': 'weight'}
    """
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    lost = [name for name, parameter in parameters.items() if id(parameter) not in own]
    if lost:
        raise SynapseError(
            f"{lost} are protected but not in the model that {estimator} was given: give it the same model"
        )
    return {name: own[id(parameter)] for name, parameter in parameters.items()}


def refuse_no_samples(samples: int) -> None:
    """Raise a SynapseError if there were none.

    Example:
        >>> refuse_no_samples(1)
    """
    if samples == 0:
        raise SynapseError("data held no samples; pass batches of (inputs, targets) of the task that ends")


def checked_chunk_size(chunk_size: object) -> int:
    """Return a chunk size if it is one.

    Raises:
        ValueError: it is not a positive whole number.

    Example:
        >>> checked_chunk_size(64)
        64
    """
    if not (isinstance(chunk_size, int) and chunk_size > 0):
        raise ValueError(f"chunk_size must be a positive whole number, not {chunk_size!r}")
    return chunk_size


def wide(tensor: Tensor) -> torch.dtype:
    """Return the dtype of a tensor, or float32 if it has fewer digits.

    Example:
        >>> wide(torch.ones(1, dtype=torch.bfloat16))
        torch.float32
    """
    return torch.promote_types(tensor.dtype, torch.float32)


def _side_by_side(
    model: nn.Module, theta: Mapping[str, Tensor], objective: Objective, of: Of, data: tuple[Tensor, Tensor, Tensor]
) -> Mapping[str, Tensor]:
    """Return the weighted sum over samples of a function of each sample's gradient."""
    x, y, weight = data
    layers = find_linear_layers(model, theta, lambda: objective(model(x[:1]), y[:1]))
    owned = {name for layer in layers.values() for name in layer.names}
    detached = {name: parameter.detach() for name, parameter in theta.items()}

    def of_sample(
        parameters: dict[str, Tensor], shifts: dict[str, Tensor], one_x: Tensor, one_y: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with factors_kept(layers, shifts) as rows:
            output = functional_call(model, {**detached, **parameters}, (one_x[None],))
        return objective(output, one_y[None]), rows

    others = {name: parameter for name, parameter in detached.items() if name not in owned}
    no_shifts = {name: torch.zeros_like(layer.output[0]) for name, layer in layers.items()}
    of_samples = vmap(grad(of_sample, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0, 0))
    # `grad` records inside; outside, parameters that are not protected would hang every chunk's graph on the sum.
    with torch.no_grad():
        (gradients, of_outputs), rows = of_samples(others, no_shifts, x, y)
    total = {name: _weighted(g, weight, of) for name, g in gradients.items()}
    for name, layer in layers.items():
        total[layer.weight] = _weighted(of_outputs[name], weight, of, rows[name][:, 0])
        if layer.bias is not None:
            total[layer.bias] = _weighted(of_outputs[name], weight, of)
    return total


def _one_by_one(
    model: nn.Module, theta: Mapping[str, Tensor], objective: Objective, of: Of, data: tuple[Tensor, Tensor, Tensor]
) -> Mapping[str, Tensor]:
    """Return what :func:`_side_by_side` does, by one backward pass for each sample."""
    total: dict[str, Tensor] = {}
    for one_x, one_y, one_weight in zip(*(part.split(1) for part in data), strict=True):
        gradients = _gradients(objective(model(one_x), one_y), model, list(theta.values()))
        for name, g in zip(theta, gradients, strict=True):
            if g is not None:
                value = _weighted(g[None], one_weight, of)
                total[name] = total[name] + value if name in total else value
    return total


def _gradients(loss: Tensor, model: nn.Module, parameters: list[Tensor]) -> list[Tensor | None]:
    """Return the gradients, of sharded parameters the parts that lie here."""
    if not any(map(is_sharded, parameters)):
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    # FSDP2 reduces gradients on their way into p.grad: the mean over processes, which all have the same sample.
    model.zero_grad(set_to_none=True)
    loss.backward()
    return [None if p.grad is None else local(placed_like(p.grad, p)) for p in parameters]


def _weighted(gradients: Tensor, weight: Tensor, of: Of, rows: Tensor | None = None) -> Tensor:
    """Return ``sum_i weight_i * of(gradients_i)``, float32 or wider; with rows, of the outer products with these."""
    dtype = wide(gradients)
    # A target without weight counts for nothing, also where its objective is infinite and has no gradient.
    counts = weight != 0
    if not bool(counts.all()):
        gradients, weight = gradients[counts], weight[counts]
        rows = None if rows is None else rows[counts]
    if rows is not None:
        total: Tensor = (weight.to(dtype)[:, None] * of(gradients.to(dtype))).T @ of(rows.to(dtype))
        return total
    # One copy of the gradients and no more: they are samples times parameters, and memory is what takes time.
    total = torch.tensordot(weight.to(dtype), of(gradients.to(dtype)), dims=1)
    return total


def _warn_of_loop(estimator: str, reason: RuntimeError) -> None:
    first_line = str(reason).split("\n", 1)[0]
    warn(f"vmap cannot run this model ({first_line}); {estimator} goes one sample at a time: slower, the same numbers")


def _summed_over(group: Any, total: Mapping[str, Tensor], samples: int) -> int:
    """Add up what the processes of a group have found, each from its own data; return how many samples they had."""
    for tensor in total.values():
        dist.all_reduce(tensor, group=group)
    counts: list[int] = [0] * dist.get_world_size(group)
    dist.all_gather_object(counts, samples, group=group)
    return sum(counts)
