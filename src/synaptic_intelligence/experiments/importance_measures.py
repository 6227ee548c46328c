"""Importance measures side by side: omega, Fisher information, Hessian, MAS and the weights' magnitude.

    synaptic run importance-measures

On a small network that has learnt MNIST, how alike are the importance that its synapses have integrated while it
learnt, and the measures that look at the end point alone. The latter are exact for the reference images. Beside them
stands the distance that each weight has gone, by whose square omega divides the path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from synaptic_intelligence.consolidator import SynapticIntelligence
from synaptic_intelligence.data import load_mnist
from synaptic_intelligence.document import JSON
from synaptic_intelligence.experiments.networks import multilayer_perceptron
from synaptic_intelligence.experiments.study import Study
from synaptic_intelligence.importance import MAS, Fisher, TaskEnd
from synaptic_intelligence.tasks import Task
from synaptic_intelligence.train import as_input, evaluate, train_epoch

MEASURES = ("omega", "path", "Fisher", "Hessian", "MAS", "|weight|", "distance")

_ALL = "all weights"
_SHOWN = 400  # synapses in the figure's scatter plots
_AT_ONCE = 32  # Hessian-vector products in one pass


@final
@dataclass(frozen=True)
class Measures:
    """The settings: what is trained, and on how many images the measures are taken.

    Args:
        seeds: repetitions.
        hidden: units in each of the two hidden layers.
        epochs, batch_size, lr: of the training, by Adam.
        xi: damping of omega, in theta^2.
        reference: training images on which Fisher, Hessian and MAS are computed.
        limit: training images; None: all.
    """

    seeds: int = 5
    hidden: int = 16
    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    xi: float = 1e-3
    reference: int = 1000
    limit: int | None = None


def compute(settings: Measures, data_dir: Path | None, listen: Callable[[str], None]) -> Mapping[str, JSON]:
    """Train, measure, and return the rank correlations of all measures, by layer and over all weights.

    Weights whose input is zero in all reference images are left out: Fisher, Hessian and MAS are zero there whatever
    has been learnt, which would count as agreement. Where Fisher is zero for another reason, as at a hidden unit that
    is always off, the weight is compared, with the rank that all zeros share; ``zero_fisher`` counts these. As a single
    such unit has many weights of a small layer, ``spearman_live`` is without them, and ``units_off`` counts the units
    of both hidden layers that are off on all reference images. The logits of a network of ReLUs are piecewise linear in
    each single weight, so that the diagonals of Hessian and Fisher information must be the same;
    ``fisher_against_hessian`` is how far they differ.
    """
    from scipy.stats import spearmanr

    whole, limit = load_mnist(data_dir), settings.limit
    task = replace(whole, train_inputs=whole.train_inputs[:limit], train_targets=whole.train_targets[:limit])
    reference = as_input(task.train_inputs[: settings.reference]), task.train_targets[: settings.reference]
    counts: dict[str, dict[str, list[JSON]]] = {"compared": {}, "left_out": {}, "zero_fisher": {}}
    spearman: dict[str, dict[str, list[JSON]]] = {"spearman": {}, "spearman_live": {}}
    units_off: list[JSON] = []
    accuracy: list[JSON] = []
    disagreement: list[JSON] = []
    scatter: dict[str, JSON] = {}
    for seed in range(settings.seeds):
        model, measured = _measure(settings, task, *reference, seed)
        reached = evaluate(model, task, multi_head=False)
        accuracy.append(reached)
        disagreement.append(_largest_difference(measured["Fisher"], measured["Hessian"]))
        masks = {"spearman": fed_weights(measured["|weight|"], reference[0])}
        masks["spearman_live"], off = live_weights(model, reference[0])
        units_off.append(off)
        compared = {kind: _columns(measured, mask) for kind, mask in masks.items()}
        for kind, columns in compared.items():
            for name, values in columns.items():
                spearman[kind].setdefault(name, []).append(spearmanr(values.numpy(), axis=1).statistic.tolist())
        sizes = {name: mask.numel() for name, mask in masks["spearman"].items()}
        sizes[_ALL], every = sum(sizes.values()), compared["spearman"][_ALL]
        for name, values in compared["spearman"].items():
            counts["compared"].setdefault(name, []).append(values.shape[1])
            counts["left_out"].setdefault(name, []).append(sizes[name] - values.shape[1])
            counts["zero_fisher"].setdefault(name, []).append(int((values[MEASURES.index("Fisher")] == 0).sum()))
        if seed == 0:
            some = torch.randperm(every.shape[1], generator=torch.Generator().manual_seed(0))[:_SHOWN]
            scatter = {measure: every[i, some].tolist() for i, measure in enumerate(MEASURES)}
        listen(f"seed {seed}: test accuracy {reached:.1%}")
    return {
        "measures": list(MEASURES),
        **{name: dict(by_layer) for name, by_layer in counts.items()},
        **{kind: dict(by_layer) for kind, by_layer in spearman.items()},
        "units_off": units_off,
        "test_accuracy": accuracy,
        "fisher_against_hessian": disagreement,
        "scatter": scatter,
    }


def _measure(
    settings: Measures, task: Task, x: Tensor, y: Tensor, seed: int
) -> tuple[nn.Sequential, dict[str, dict[str, Tensor]]]:
    """Return a network that has learnt the task, and every measure of every parameter of it."""
    sizes = (784, settings.hidden, settings.hidden, 10)
    model = multilayer_perceptron(sizes, torch.Generator().manual_seed(2 * seed), zero_output=False)
    order = torch.Generator().manual_seed(2 * seed + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    synapses = SynapticIntelligence(model.named_parameters(), optimizer, c=0.0, xi=settings.xi)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(settings.epochs):
        train_epoch(model, optimizer, task, batch_size=settings.batch_size, generator=order, multi_head=False)
    path = dict(synapses.consolidate())
    theta = {name: parameter.detach() for name, parameter in model.named_parameters()}
    measured = {
        "omega": dict(synapses.omega),
        "path": path,
        "Fisher": estimated(Fisher(model, cross_entropy, kind="exact"), x, y),
        "Hessian": hessian_diagonal(model, theta, x, y),
        "MAS": estimated(MAS(model), x, y),
        "|weight|": {name: values.abs() for name, values in theta.items()},
        "distance": {name: (values - start[name]).abs() for name, values in theta.items()},
    }
    assert isinstance(model, nn.Sequential)
    return model, measured


def _columns(measured: Mapping[str, Mapping[str, Tensor]], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the measures ``[measure, weight]`` of the weights in the masks: by layer, and of all layers together."""
    columns = {
        name: torch.stack([measured[measure][name][mask].double() for measure in MEASURES])
        for name, mask in masks.items()
    }
    return {**columns, _ALL: torch.cat(list(columns.values()), dim=1)}


def fed_weights(parameters: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Return which weights can matter to these images: all but those of the first layer whose input is always zero.

    Args:
        parameters: by name, the first layer's first; those of less than two dimensions are biases, and not returned.
        x: the images, flat.

    Example:
        >>> layers = {"0.weight": torch.ones(1, 3), "0.bias": torch.ones(1), "2.weight": torch.ones(1, 1)}
        >>> fed_weights(layers, torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 1.0]]))
        {'0.weight': tensor([[False,  True,  True]]), '2.weight': tensor([[True]])}
    """
    fed = {name: torch.ones_like(values, dtype=torch.bool) for name, values in parameters.items() if values.ndim > 1}
    fed[next(iter(fed))] &= (x != 0).any(dim=0)
    return fed


def live_weights(network: nn.Sequential, x: Tensor) -> tuple[dict[str, Tensor], int]:
    """Return which weights lie between inputs and units that are not zero on all images, and how many units are.

    Args:
        network: linear layers with ReLU between them.
        x: the images, flat.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> with torch.no_grad():
        ...     _ = network[0].weight.copy_(torch.tensor([[1.0], [-1.0]])), network[0].bias.zero_()
        >>> live_weights(network, torch.tensor([[2.0], [3.0]]))
        ({'0.weight': tensor([[ True],
                [False]]), '2.weight': tensor([[ True, False]])}, 1)
    """
    live, fed, off = {}, (x != 0).any(dim=0), 0
    with torch.no_grad():
        for name, layer in network.named_children():
            x = layer(x)
            if isinstance(layer, nn.Linear):
                # The output layer has no ReLU after it: each of its units counts.
                last = layer is network[-1]
                on = torch.ones_like(x[0], dtype=torch.bool) if last else (x > 0).any(dim=0)
                live[f"{name}.weight"] = on[:, None] & fed[None, :]
                fed, off = on, off + int((~on).sum())
    return live, off


def _largest_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the largest absolute difference over the largest absolute value, the worst of all parameters."""
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max()) for name in a)


def estimated(estimator: Fisher | MAS, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the importance that one of the library's estimators gives its model after a first task.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> found = estimated(MAS(model), torch.tensor([[3.0]]), torch.tensor([0]))
        >>> found["weight"].item()  # d (2 * 3)^2 / d weight = 2 * 6 * 3
        36.0
    """
    parameters = dict(estimator.model.named_parameters())
    zeros = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    end = TaskEnd(parameters, {n: p.detach() for n, p in parameters.items()}, {}, zeros, [(x, y)])
    return dict(estimator.new_omega(end))


def hessian_diagonal(model: nn.Module, theta: Mapping[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the exact diagonal of the Hessian of the mean loss, by one Hessian-vector product for each parameter.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> x, y = torch.tensor([[3.0]]), torch.tensor([0])  # one class: the loss is 0 whatever the weight
        >>> hessian_diagonal(model, dict(model.named_parameters()), x, y)["weight"].item()
        0.0
    """
    names, shapes = list(theta), [values.shape for values in theta.values()]
    sizes = [values.numel() for values in theta.values()]
    flat = torch.cat([values.detach().flatten() for values in theta.values()])

    def loss(parameters: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(parameters.split(sizes), shapes, strict=True)]
        return cross_entropy(functional_call(model, dict(zip(names, parts, strict=True)), (x,)), y)

    def slope(parameters: Tensor, direction: Tensor) -> Tensor:
        first: Tensor = grad(loss)(parameters)
        return (first * direction).sum()

    def element(direction: Tensor) -> Tensor:
        product: Tensor = grad(slope)(flat, direction)
        return (product * direction).sum()

    diagonal = torch.empty_like(flat)
    for start in range(0, len(flat), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(flat))
        directions = torch.zeros(stop - start, len(flat), dtype=flat.dtype)
        directions[torch.arange(stop - start), torch.arange(start, stop)] = 1
        diagonal[start:stop] = vmap(element)(directions)
    return {name: part.view(shape) for name, part, shape in zip(names, diagonal.split(sizes), shapes, strict=True)}


IMPORTANCE_MEASURES = Study(
    name="importance-measures",
    title="Importance measures side by side",
    what="omega against Fisher information, Hessian, MAS and magnitude",
    source="section 4",
    settings=Measures(),
    quick=Measures(seeds=1, hidden=8, epochs=1, reference=50, limit=2000),
    compute=compute,
)
