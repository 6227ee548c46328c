"""Linear layers whose gradients are kept as two factors: which they are, and that loops give the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operations import Largest
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import synaptic_intelligence as si
from synaptic_intelligence.importance.linear_layers import find_linear_layers

Data = tuple[Tensor, Tensor]


def samples(shape: tuple[int, ...] = (4,), count: int = 9) -> Data:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


def by_loops(model: nn.Module, data: Data) -> dict[str, Tensor]:
    """The mean square of the gradient of one sample's loss, one backward pass each."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for x, y in zip(*data, strict=True):
        loss = F.cross_entropy(model(x[None]), y[None])
        for name, g in zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True):
            total[name] += torch.zeros_like(total[name]) if g is None else g**2
    return {name: t / len(data[0]) for name, t in total.items()}


def importance(
    model: nn.Module, data: Data, named: Iterable[tuple[str, Tensor]] | None = None, chunk_size: int = 4
) -> dict[str, Tensor]:
    named = list(model.named_parameters() if named is None else named)
    fisher = si.Fisher(model, F.cross_entropy, kind="empirical", chunk_size=chunk_size)
    synapses = si.Consolidator(named, torch.optim.SGD([p for _, p in named], lr=0.1), fisher, c=1.0)
    synapses.consolidate([data])
    synapses.detach()
    return dict(synapses.omega)


def found_in(model: nn.Module, data: Data) -> list[str]:
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    x, y = data
    return list(find_linear_layers(model, theta, lambda: F.cross_entropy(model(x[:1]), y[:1])))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert set(found) >= set(expected)
    for name, t in expected.items():
        assert float((found[name] - t).abs().max()) <= tolerance * float(t.abs().max()), name


class Two(nn.Module):
    """Two linear layers, and what a subclass makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.tanh(self.a(x)))
        return logits


class UsedTwice(Two):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))
        return logits


class WeightUsedElsewhere(Two):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(F.linear(torch.tanh(self.a(x)), self.a.weight))
        return logits


class BiasUsedElsewhere(Two):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.tanh(self.a(x)) * self.a.bias)
        return logits


class Tied(Two):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(4, 4, bias=False)
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.tanh(self.c(self.a(x))))
        return logits


class Rows(Two):
    """Three rows for each sample in the first layer."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.tanh(self.a(torch.stack([x, 2 * x, -x], dim=1))).mean(dim=1))
        return logits


class RowsInFront(Two):
    """Two rows for each sample, where a batch has its samples."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.tanh(self.a(torch.cat([x, 2 * x]))).unflatten(0, (2, -1)).mean(dim=0))
        return logits


class Subclass(Two):
    def __init__(self) -> None:
        super().__init__()

        class Doubled(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return F.linear(x, 2 * self.weight, self.bias)

        self.a = Doubled(4, 4)


class OwnForward(Two):
    def __init__(self) -> None:
        super().__init__()
        self.a.forward = lambda x: F.linear(x, self.a.weight.square(), self.a.bias)  # type: ignore[method-assign, assignment]


class Parametrized(Two):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.a)


class PlainWeight(Two):
    """As torch's older parametrizations leave it: the weight is computed before each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(self.a.weight.detach().clone())
        del self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        self.a.weight = 3 * self.scale
        return super().forward(x)


class Unused(Two):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(x)
        return logits


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Two, ["a.weight", "b.weight"]),
        (UsedTwice, ["b.weight"]),
        (WeightUsedElsewhere, ["b.weight"]),
        (BiasUsedElsewhere, ["b.weight"]),
        (Tied, ["b.weight"]),
        (Rows, ["b.weight"]),
        (RowsInFront, ["b.weight"]),
        (Subclass, ["b.weight"]),
        (OwnForward, ["b.weight"]),
        (Parametrized, ["b.weight"]),
        (PlainWeight, ["b.weight"]),
        (Unused, ["b.weight"]),
        (
            lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.LayerNorm(5), nn.Linear(5, 3)),
            ["0.weight", "2.weight"],
        ),
        (lambda: nn.Linear(4, 3), ["weight"]),
        (
            lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, 3)),
            ["3.weight"],
        ),
    ],
)
def test_which_layers_are_found_and_the_numbers(make: Callable[[], nn.Module], expected: list[str]) -> None:
    torch.manual_seed(3)
    model, data = make().double(), samples()
    assert found_in(model, data) == expected
    found = importance(model, data)
    assert_same(found, by_loops(model, data))
    assert any(bool(t.any()) for t in found.values())


def test_a_layer_that_is_compiled_is_left_to_its_compiler() -> None:
    model, data = Two().double(), samples()
    model.a.compile(backend="eager")
    assert found_in(model, data) == ["b.weight"]
    inner: Any = torch.compile(Two().double(), backend="eager")
    outer = nn.Sequential(inner)
    assert found_in(outer, data) == []


def test_frozen_parameters_are_passed_over() -> None:
    model, data = Two().double(), samples()
    model.a.weight.requires_grad_(False)
    model.b.bias.requires_grad_(False)
    assert found_in(model, data) == ["b.weight"]
    found = importance(model, data)
    assert_same(found, by_loops(model, data))
    assert not bool(found["a.weight"].any())
    assert not bool(found["b.bias"].any())


@pytest.mark.parametrize("names", [["a.weight"], ["a.bias"], ["b.weight", "a.bias"]])
def test_what_is_not_protected_does_not_change_what_is(names: list[str]) -> None:
    model, data = Two().double(), samples()
    whole = by_loops(model, data)
    found = importance(model, data, [(name, p) for name, p in model.named_parameters() if name in names])
    assert sorted(found) == sorted(names)
    assert_same(found, {name: whole[name] for name in names})


# What users hang on layers.


@contextmanager
def everywhere(hook: Callable[..., Any]) -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_hooks_change_what_a_layer_takes_and_gives_as_they_do_in_training() -> None:
    model, data = Two().double(), samples()
    model.a.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    model.a.register_forward_hook(lambda _, args, output: output * args[0].square() * 3)
    assert found_in(model, data) == ["a.weight", "b.weight"]
    assert_same(importance(model, data), by_loops(model, data))
    with everywhere(lambda module, _, output: output.sin() if isinstance(module, nn.Linear) else None):
        assert_same(importance(model, data), by_loops(model, data))


def test_an_output_that_is_changed_in_place_is_fine() -> None:
    model, data = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double(), samples()
    assert len(found_in(model, data)) == 2
    assert_same(importance(model, data), by_loops(model, data))


def test_a_layer_runs_as_it_did_afterwards() -> None:
    model, data = Two().double(), samples()
    before = model(data[0])
    importance(model, data)
    assert "forward" not in vars(model.a)
    assert torch.equal(model(data[0]), before)

    def fails(_: Tensor, __: Tensor) -> Tensor:
        raise KeyError("mine")

    fisher = si.Fisher(model, fails, kind="empirical")
    synapses = si.Consolidator(model.named_parameters(), torch.optim.SGD(model.parameters()), fisher, c=1.0)
    with pytest.raises(KeyError, match="mine"):
        synapses.consolidate([data])
    assert "forward" not in vars(model.a)
    assert torch.equal(model(data[0]), before)


def test_a_model_that_runs_otherwise_side_by_side_goes_one_by_one() -> None:
    class Otherwise(Two):
        def forward(self, x: Tensor) -> Tensor:
            if torch._C._functorch.is_gradtrackingtensor(x) or torch._C._functorch.is_batchedtensor(x):
                return (super().forward(x) + super().forward(x)) / 2
            return super().forward(x)

    model, data = Otherwise().double(), samples()
    with pytest.warns(si.SynapseWarning, match="does not run for all samples as it does for one"):
        found = importance(model, data)
    assert_same(found, by_loops(model, data))


def test_activation_checkpointing_runs_layers_once_more_on_the_way_back() -> None:
    class Checkpointed(Two):
        def forward(self, x: Tensor) -> Tensor:
            hidden = checkpoint(self.a, x, use_reentrant=False)
            # The weight is used elsewhere, so that there is a way back through the layer when it is looked for.
            logits: Tensor = self.b(torch.tanh(hidden)) + self.a.weight.sum()
            return logits * self.a.weight.mean()

    torch.manual_seed(3)
    model, data = Checkpointed().double(), samples()
    assert found_in(model, data) == ["b.weight"]
    with pytest.warns(si.SynapseWarning, match="vmap cannot run this model.*saved tensor hooks"):
        found = importance(model, data)
    assert_same(found, by_loops(model, data))


# Precision and memory.


def test_autocast_inside_the_model() -> None:
    class Autocast(Two):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits: Tensor = super().forward(x)
            return logits.float()

    torch.manual_seed(3)
    model, (x, y) = Autocast(), samples()
    data = x.float(), y
    assert found_in(model, data) == ["a.weight", "b.weight"]
    plain = Two()
    plain.load_state_dict(model.state_dict())
    # bfloat16 has 8 bits: its rounding, 2**-8, comes in by two factors, squared, and by activations.
    assert_same(importance(model, data), by_loops(plain, data), 8 * 2**-8)


def test_nothing_larger_than_the_parameters_is_made() -> None:
    model, count = nn.Linear(40, 30), 64
    data = torch.randn(count, 40), torch.randint(30, (count,))
    with Largest() as largest:
        importance(model, data, chunk_size=16)
    assert largest.elements == model.weight.numel()
