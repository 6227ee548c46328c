"""Per-sample gradients of linear layers as their two factors, so that their sum is one product of matrices.

A sample's gradient by the weight of a linear layer is the outer product of the gradient by the layer's output and the
layer's input. A function of it that is multiplicative, such as the square or the absolute value, is that of both, and
the sum over samples is a product of two thin matrices: what is as large as the parameters is then held a few times,
and not once for each sample.

That is so for a layer that runs once, on one row of each sample, and whose parameters do nothing else. Whether they do
is not looked for in the model, but measured: the gradient of all samples together, which autograd gives, must be the
sum of the products, but for rounding. Unequal shares of the samples in it keep what is missing from adding up to
nothing. What one of 64 samples lacks could still hide in the rounding of all, so that in float32 its gradient may be
off by 4 * 64 units in the last place; where numbers are rounded to fewer digits than those of float32, too much could
hide, and nothing is kept as factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

Run = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""Of parameters, one input and one target: the objective of that sample."""

Of = Callable[[Tensor], Tensor]
"""Of gradients ``[samples, ...]``, element by element, and multiplicative: that of a product is the product of both."""

_Pair = tuple[Tensor, Tensor]

_UNITS = 4
"""By how many units in the last place of the sum of sizes two sums over a chunk may differ, taken in other orders."""


def linear_layers(model: nn.Module, theta: Mapping[str, Tensor]) -> dict[str, nn.Linear]:
    """Return the linear layers whose weight counts, by its name; none of a model of which a part is compiled.

    A compiled part is left alone, as it would be compiled anew for layers that are watched.

    Args:
        model: the whole network.
        theta: the parameters that count, by their names in the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Conv1d(1, 1, 2))
        >>> linear_layers(model, dict(model.named_parameters()))
        {'0.weight': Linear(in_features=4, out_features=3, bias=True)}
    """
    modules = dict(model.named_modules())
    if any(isinstance(m, torch._dynamo.OptimizedModule) or m._compiled_call_impl is not None for m in modules.values()):
        return {}
    weights = {f"{name}.weight".removeprefix("."): module for name, module in modules.items()}
    return {name: module for name, module in weights.items() if isinstance(module, nn.Linear) and name in theta}


def sums_of_factors(
    run: Run,
    theta: Mapping[str, Tensor],
    layers: Mapping[str, nn.Linear],
    of: Of,
    data: tuple[Tensor, Tensor, Tensor],
) -> dict[str, Tensor]:
    """Return ``sum_i weight_i * of(gradient_i)`` for the parameters of those layers where it is that of the factors.

    Args:
        run: runs the model; see its type.
        theta: the parameters that count, by name.
        layers: the layers that are tried, by the name of their weight.
        of: see its type.
        data: inputs, targets and the weight of each sample.

    Raises:
        RuntimeError: vmap cannot run the model, or not with layers that are watched.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> run = lambda theta, x, y: (torch.func.functional_call(layer, theta, (x[None],)) * y).sum()
        >>> data = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([1.0, 2.0]), torch.ones(2)
        >>> theta = dict(layer.named_parameters())
        >>> sums_of_factors(run, theta, {"weight": layer}, torch.square, data)  # gradients (1, 2) and (6, 0)
        {'weight': tensor([[37.,  4.]])}
    """
    # A sample without weight counts for nothing, also where its objective is infinite and has no gradient.
    counts = data[2] != 0
    x, y, weight = data if bool(counts.all()) else (part[counts.to(part.device)] for part in data)
    if not layers or not len(x):
        return {}
    watched = _Watched(layers, theta)
    constant = {name: parameter.detach() for name, parameter in theta.items()}
    shares = torch.linspace(1, 2, len(x), dtype=torch.float32, device=weight.device)

    def together(own: dict[str, Tensor], shifts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        def one(shift: dict[str, Tensor], one_x: Tensor, one_y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            with watched.while_running(shift) as rows:
                objective = run({**constant, **own}, one_x, one_y)
            return objective, rows

        objectives, rows = vmap(one)(shifts, x, y)
        return (objectives * shares.to(objectives.dtype)).sum(), rows

    own = {name: constant[name] for names in watched.names.values() for name in names}
    shifts = {name: layer.weight.new_zeros(len(x), layer.out_features) for name, layer in layers.items()}
    with torch.no_grad():  # `grad` records inside
        (gradients, of_outputs), rows = grad(together, argnums=(0, 1), has_aux=True)(own, shifts)
    found: dict[str, Tensor] = {}
    for name, row in rows.items():
        outputs, inputs = of_outputs[name], row[:, 0]
        of_weight, *of_bias = watched.names[name]
        factors = {of_weight: (outputs, inputs), **dict.fromkeys(of_bias, (outputs, torch.ones_like(inputs[:, :1])))}
        if name in watched.coarse or not all(_is_sum(gradients[each], pair) for each, pair in factors.items()):
            continue
        # The gradients by the outputs have the shares in them.
        scale = weight.to(outputs.dtype) / of(shares.to(outputs.dtype))
        sums = {each: _sum(of, scale, pair).reshape(own[each].shape) for each, pair in factors.items()}
        if all(bool(total.sum().isfinite()) for total in sums.values()):
            found.update(sums)
    return found


@final
class _Watched:
    """Linear layers that add a shift to what they give, and tell of the row that they take.

    Attributes:
        names: those of the parameters of each layer that count, by the name of its weight, which is the first.
        coarse: those that compute with fewer digits than float32 has.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], theta: Mapping[str, Tensor]) -> None:
        self.layers, self.coarse = layers, set[str]()
        biases = {weight: f"{weight.removesuffix('weight')}bias" for weight in layers}
        self.names = {weight: [weight, bias] if bias in theta else [weight] for weight, bias in biases.items()}

    @contextmanager
    def while_running(self, shifts: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Return a context, and what on leaving has the rows of those layers that ran once and on one row."""
        taken: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        rows: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name, layer in self.layers.items():
                stack.enter_context(_instead(layer, self._forward(name, layer.forward, shifts[name], taken[name])))
            yield rows
        rows.update({name: each[0] for name, each in taken.items() if len(each) == 1 and _is_row(each[0])})

    def _forward(
        self, name: str, forward: Callable[..., Any], shift: Tensor, taken: list[Tensor]
    ) -> Callable[..., Any]:
        def shifted(*args: Any, **kwargs: Any) -> Any:
            given, output = args[0] if args else kwargs.get("input"), forward(*args, **kwargs)
            if not (isinstance(given, Tensor) and isinstance(output, Tensor) and output.shape[-1:] == shift.shape):
                return output
            taken.append(given)
            if _is_coarse(given, output):
                self.coarse.add(name)
            return output + shift.to(output.dtype)

        return shifted


def _is_coarse(*tensors: Tensor) -> bool:
    """Return whether a layer computes with fewer digits than float32 has, in its own dtype, by autocast or by TF32."""
    few = any(tensor.dtype not in (torch.float32, torch.float64) for tensor in tensors)
    try:
        rounds_products = torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # it was set by a newer name, of which torch's older one wants to know nothing
        rounds_products = True
    return few or torch.is_autocast_enabled(tensors[0].device.type) or rounds_products


def _is_row(x: Tensor) -> bool:
    return x.ndim == 2 and len(x) == 1


def _is_sum(gradient: Tensor, factors: _Pair) -> bool:
    """Return whether a gradient is the sum of the products of factors, but for rounding."""
    left, right = factors
    if gradient.numel() != left.shape[1] * right.shape[1]:
        return False
    limits = torch.finfo(gradient.dtype)
    # In place, as all of this is as large as the parameters.
    apart = (left.T @ right).sub_(gradient.reshape(left.shape[1], -1)).abs_()
    rounding = (left.abs().T @ right.abs()).mul_(_UNITS * limits.eps).add_(len(left) * limits.smallest_normal)
    return bool((apart <= rounding).all())


def _sum(of: Of, scale: Tensor, factors: _Pair) -> Tensor:
    """Return ``sum_i scale_i * of(left_i)`` times ``of(right_i)``, outer products."""
    # Squares of factors can be too large or too small for their dtype where that of their product is not.
    (left, low), (right, high) = (_near_one(factor) for factor in factors)
    return ((scale[:, None] * of(left)).T @ of(right)).mul_(of(low * high))


def _near_one(factor: Tensor) -> _Pair:
    """Return a tensor divided by a power of two, so that its largest element lies between 1 and 2, and that power."""
    largest = factor.abs().max()
    power = torch.where(largest > 0, largest.log2().floor().exp2(), 1)
    return factor / power, power


@contextmanager
def _instead(layer: nn.Linear, forward: Callable[..., Any]) -> Iterator[None]:
    """Return a context in which a layer computes ``forward``: inside of all hooks, which see what it gives."""
    own = vars(layer).get("forward")
    layer.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(layer).pop("forward", None)
        if own is not None:
            layer.forward = own  # type: ignore[method-assign]
