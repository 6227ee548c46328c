"""Means over samples of a function of each sample's gradient, for estimators that look at the end point of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance.data import bare, batches, group_of, in_turn, reshard, undisturbed
from synaptic_intelligence.importance.estimator import TaskEnd
from synaptic_intelligence.importance.linear_layers import Of, linear_layers, sums_of_factors
from synaptic_intelligence.sharding import is_sharded, local, placed_like

Objective = Callable[[Any, Tensor], Tensor]
"""Of the output for one sample, a batch of one, and its target: a tensor without dimensions."""

Targets = Callable[[nn.Module, Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]
"""Of the model, a chunk of inputs and its targets: targets in their place, with the weight of each sample."""

_Data = tuple[Tensor, Tensor, Tensor]

_TOGETHER = 64
"""Samples whose gradients are compared in one sum: in more of them too much could hide in its rounding."""


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
        TypeError: the data is not batches of (inputs, targets), or the objective is no tensor.
        ValueError: the objective is several numbers for one sample.

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
    loop = partial(_one_by_one, inner, theta, objective, of)
    sums: Callable[[_Data], Mapping[str, Tensor]] = loop if sharded else _SideBySide(inner, theta, objective, of)
    found_in = in_turn(batches(end.data), group) if sharded else batches(end.data)
    with undisturbed(inner, group), torch.enable_grad():
        for inputs, labels in found_in:
            for x, y in zip(inputs.split(chunk_size), labels.split(chunk_size), strict=True):
                for target, weight in targets(inner, x, y):
                    try:
                        found = sums((x, target, weight))
                    except RuntimeError as reason:
                        if sums is loop or isinstance(reason, torch.OutOfMemoryError):
                            raise
                        # What vmap cannot run (control flow that depends on data, an old autograd.Function, random
                        # numbers) is the same sum one sample at a time; a mistake of the user's own raises there.
                        sums = loop
                        found = sums((x, target, weight))
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


def places_of(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """Return all places of a model where these parameters hang, with their names; a place with two names has one here.

    With these, and ``tie_weights=False``, functional_call finds every use of a shared parameter, and puts a module that
    stands under two names back as it was, which it does not where it is told of it twice.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> places_of(nn.Sequential(layer, layer), {"w": layer.weight})
        {'0.weight': 'w'}
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    return {
        f"{prefix}.{attribute}".removeprefix("."): names[id(parameter)]
        for prefix, module in model.named_modules()
        for attribute, parameter in module._parameters.items()
        if id(parameter) in names
    }


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


@final
class _SideBySide:
    """Weighted sums over samples of a function of each one's gradient, by vmap; in linear layers of its two factors."""

    def __init__(self, model: nn.Module, theta: Mapping[str, Tensor], objective: Objective, of: Of) -> None:
        self.theta, self.of = theta, of
        self.layers = linear_layers(model, theta)
        self.both = _Both(model, objective)
        self.places = places_of(self.both, theta)

    def __call__(self, data: _Data) -> Mapping[str, Tensor]:
        x, y, weight = data
        found = self._of_linear_layers(data)
        constant = {name: parameter.detach() for name, parameter in self.theta.items()}
        others = {name: parameter for name, parameter in constant.items() if name not in found}
        if not others:
            return found

        def of_sample(parameters: dict[str, Tensor], one_x: Tensor, one_y: Tensor) -> Tensor:
            return self._run({**constant, **parameters}, one_x, one_y)

        # `grad` records inside; outside, parameters that are not protected would hang every chunk's graph on the sum.
        with torch.no_grad():
            gradients = vmap(grad(of_sample), in_dims=(None, 0, 0))(others, x, y)
        return {**found, **{name: _weighted(g, weight, self.of) for name, g in gradients.items()}}

    def _of_linear_layers(self, data: _Data) -> dict[str, Tensor]:
        """Return the sums of the layers whose gradients are products; what is none once is not tried again."""
        sizes = {name: parameter.numel() for name, parameter in self.theta.items()}
        # Other parameters need a run of their own, which is in vain where linear layers are the smaller part.
        if 2 * sum(sizes[name] for name in self.layers) < sum(sizes.values()):
            self.layers = {}
        total: dict[str, Tensor] = {}
        for part in zip(*(each.split(_TOGETHER) for each in data), strict=True):
            if not self.layers or not bool(part[2].any()):
                continue
            try:
                found = sums_of_factors(self._run, self.theta, self.layers, self.of, part)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # what is the user's own mistake raises again where gradients are taken whole
                found = {}
            self.layers = {name: layer for name, layer in self.layers.items() if name in found}
            total = {name: total[name] + value if name in total else value for name, value in found.items()}
        return total

    def _run(self, parameters: Mapping[str, Tensor], one_x: Tensor, one_y: Tensor) -> Tensor:
        at = {place: parameters[name] for place, name in self.places.items()}
        objective: Tensor = functional_call(self.both, at, (one_x[None], one_y[None]), tie_weights=False)
        return objective


@final
class _Both(nn.Module):
    """A model and what is made of its output, which may read the model's parameters as well."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return _one_number(self.objective(self.model(x), y))


def _one_by_one(
    model: nn.Module, theta: Mapping[str, Tensor], objective: Objective, of: Of, data: _Data
) -> Mapping[str, Tensor]:
    """Return what :class:`_SideBySide` does, by one backward pass for each sample."""
    total: dict[str, Tensor] = {}
    for one_x, one_y, one_weight in zip(*(part.split(1) for part in data), strict=True):
        gradients = _gradients(_one_number(objective(model(one_x), one_y)), model, list(theta.values()))
        for name, g in zip(theta, gradients, strict=True):
            if g is not None:
                value = _weighted(g[None], one_weight, of)
                total[name] = total[name] + value if name in total else value
    return total


def _one_number(loss: object) -> Tensor:
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss must return a tensor, not {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(
            f"loss must return one number for a batch of one sample, not a tensor of shape {list(loss.shape)}: "
            "return their sum"
        )
    return loss.reshape(())


def _gradients(loss: Tensor, model: nn.Module, parameters: list[Tensor]) -> list[Tensor | None]:
    """Return the gradients, of sharded parameters the parts that lie here."""
    if not any(map(is_sharded, parameters)):
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    # FSDP2 reduces gradients on their way into p.grad: the mean over processes, which all have the same sample.
    model.zero_grad(set_to_none=True)
    loss.backward()
    return [None if p.grad is None else local(placed_like(p.grad, p)) for p in parameters]


def _weighted(gradients: Tensor, weight: Tensor, of: Of) -> Tensor:
    """Return ``sum_i weight_i * of(gradients_i)``, float32 or wider."""
    dtype = wide(gradients)
    # A target without weight counts for nothing, also where its objective is infinite and has no gradient.
    counts = weight != 0
    if not bool(counts.all()):
        gradients, weight = gradients[counts], weight[counts]
    # One copy of the gradients and no more: they are samples times parameters, and memory is what takes time.
    total: Tensor = torch.tensordot(weight.to(dtype), of(gradients.to(dtype)), dims=1)
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
