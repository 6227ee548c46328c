"""Per-sample gradients of linear layers as their two factors, so that their sum is one product of matrices.

A sample's gradient by the weight of a linear layer is the outer product of the gradient by the layer's output and the
layer's input. A function of it that is multiplicative, such as the square or the absolute value, is that of both, and
the sum over samples is a product of two thin matrices: what is as large as the parameters is then held once, and not
once for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


@final
@dataclass(frozen=True)
class LinearLayer:
    """A linear layer that takes one row of each sample, and whose parameters are used there alone.

    Attributes:
        module: the layer.
        weight: the name of its weight in the model.
        bias: that of its bias; None where it has none that counts.
        output: an output, of one sample.

    Example:
        >>> LinearLayer(nn.Linear(2, 3), "0.weight", "0.bias", torch.zeros(1, 3)).bias
        '0.bias'
    """

    module: nn.Linear
    weight: str
    bias: str | None
    output: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of the layer that count, by their names in the model."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def find_linear_layers(
    model: nn.Module, theta: Mapping[str, Tensor], run: Callable[[], Tensor]
) -> dict[str, LinearLayer]:
    """Return the linear layers whose gradients are products of two factors, by the names of their weights.

    Left out is a layer of a subclass or with a forward of its own, one that is compiled, one that runs more than once
    or on more than one row for each sample, and one whose parameters are used elsewhere as well.

    Args:
        model: the whole network.
        theta: the parameters that count, by their names in the model.
        run: calls the model with one sample, a batch of one, and gives its objective.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1)), nn.Linear(1, 2))
        >>> theta = dict(model.named_parameters())
        >>> list(find_linear_layers(model, theta, lambda: model(torch.ones(1, 4)).sum()))  # the last has three rows
        ['0.weight']
    """
    candidates = {name: module for name, module in _plain_layers(model) if name in theta}
    rows: dict[str, list[Tensor]] = {name: [] for name in candidates}
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in candidates.items():

            def forward(x: Tensor, name: str = name, module: nn.Linear = module) -> Tensor:
                rows[name].append(x)
                # Detached, so that a gradient tells of another use.
                bias = None if module.bias is None else module.bias.detach()
                outputs[name] = linear(x, module.weight.detach(), bias)
                return outputs[name]

            stack.enter_context(_instead(module, forward))
        objective = run()
        once = [name for name, taken in rows.items() if len(taken) == 1 and _is_row(taken[0])]
        found = {}
        for name in once:
            bias = f"{name.removesuffix('weight')}bias"
            found[name] = LinearLayer(candidates[name], name, bias if bias in theta else None, outputs[name].detach())
        own = {name: theta[name] for layer in found.values() for name in layer.names}
        if not (own and objective.requires_grad):
            return found
        # Inside, as layers may run once more on the way back (activation checkpointing).
        gradients = torch.autograd.grad(objective, list(own.values()), allow_unused=True)
    elsewhere = {name for name, gradient in zip(own, gradients, strict=True) if gradient is not None}
    return {name: layer for name, layer in found.items() if elsewhere.isdisjoint(layer.names)}


@contextmanager
def factors_kept(layers: Mapping[str, LinearLayer], shifts: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Return a context in which layers add a shift to their output, and keep their input, a row.

    The gradient by the shift is that by the output.

    Raises:
        RuntimeError: on leaving, where a layer did not run once and on one row.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> layers = {"weight": LinearLayer(model, "weight", "bias", torch.zeros(1, 1))}
        >>> with factors_kept(layers, {"weight": torch.ones(1)}) as rows:
        ...     shifted = model(torch.ones(1, 2))
        >>> (shifted - model(torch.ones(1, 2))).round().tolist(), rows["weight"].tolist()
        ([[1.0]], [[1.0, 1.0]])
    """
    rows: dict[str, Tensor] = {}
    runs = 0
    with ExitStack() as stack:
        for name, layer in layers.items():

            def forward(x: Tensor, name: str = name, module: nn.Linear = layer.module) -> Tensor:
                nonlocal runs
                runs, rows[name] = runs + 1, x
                return linear(x, module.weight, module.bias) + shifts[name]

            stack.enter_context(_instead(layer.module, forward))
        yield rows
    if runs != len(layers) or set(rows) != set(layers) or not all(map(_is_row, rows.values())):
        raise RuntimeError("the model does not run for all samples as it does for one")


def _is_row(x: Tensor) -> bool:
    return x.ndim == 2 and len(x) == 1


def _plain_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers that run as torch has them run, by the names of their weights."""
    modules = dict(model.named_modules())
    if any(isinstance(module, torch._dynamo.OptimizedModule) for module in modules.values()):
        return
    for name, module in modules.items():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if type(module) is nn.Linear and "forward" not in vars(module) and not compiled:
            yield f"{name}.weight".removeprefix("."), module


@contextmanager
def _instead(module: nn.Linear, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Return a context in which a layer computes ``forward``: inside of all hooks, which see what it gives."""
    module.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del module.forward
