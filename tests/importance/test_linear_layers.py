"""Linear layers whose gradients are kept as two factors: where they are, and that loops give the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from operations import Largest
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import synaptic_intelligence as si
from synaptic_intelligence.importance.linear_layers import linear_layers, sums_of_factors
from synaptic_intelligence.importance.per_sample import _SideBySide

Data = tuple[Tensor, Tensor]
Kind = Literal["exact", "empirical", "MAS"]
Loss = Callable[[Tensor, Tensor], Tensor]

all_kinds = pytest.mark.parametrize("kind", ["exact", "empirical", "MAS"])


def samples(count: int = 9) -> Data:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


def by_loops(model: nn.Module, data: Data, kind: Kind = "empirical", loss: Loss = F.cross_entropy) -> dict[str, Tensor]:
    """One backward pass for each sample (and class), which shares no code with the library."""
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in named.items()}

    def add(objective: Tensor, of: Callable[[Tensor], Tensor], weight: float = 1.0) -> None:
        for name, g in zip(named, torch.autograd.grad(objective, list(named.values()), allow_unused=True), strict=True):
            total[name] += torch.zeros_like(total[name]) if g is None else weight * of(g)

    for x, y in zip(*(part.split(1) for part in data), strict=True):
        if kind == "MAS":
            add(model(x).square().sum(), torch.abs)
        elif kind == "empirical":
            add(loss(model(x), y), torch.square)
        else:
            for label, weight in enumerate(model(x)[0].softmax(0).tolist()):
                add(loss(model(x), torch.tensor([label])), torch.square, weight)
    return {name: t / len(data[0]) for name, t in total.items()}


def importance(
    model: nn.Module,
    data: Data,
    kind: Kind = "empirical",
    *,
    loss: Loss = F.cross_entropy,
    named: Iterable[tuple[str, Tensor]] | None = None,
    chunk_size: int = 4,
) -> dict[str, Tensor]:
    named = list(model.named_parameters() if named is None else named)
    estimator: Any = si.MAS(model, chunk_size=chunk_size)
    if kind != "MAS":
        estimator = si.Fisher(model, loss, kind=kind, chunk_size=chunk_size)
    synapses = si.Consolidator(named, torch.optim.SGD([p for _, p in named], lr=1e-9), estimator, c=1.0)
    synapses.consolidate([data])
    synapses.detach()
    return dict(synapses.omega)


def factored(model: nn.Module, data: Data, loss: Loss = F.cross_entropy) -> list[str]:
    """The weights whose gradients are kept as factors."""
    model.eval()
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = _SideBySide(model, theta, loss, torch.square)
    sums((*data, torch.ones(len(data[0]))))
    return list(sums.layers)


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


# Where gradients are products.


class ByKeyword(Two):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(input=torch.tanh(self.a(input=x)))
        return logits


class Subclass(Two):
    def __init__(self) -> None:
        super().__init__()

        class Own(nn.Linear):
            pass

        self.a = Own(4, 4)


class OwnForward(Two):
    """A forward that is set on one layer: the weight times a constant, so that the gradient is no outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.a.forward = lambda x: F.linear(x, self.a.weight * 2, self.a.bias)  # type: ignore[method-assign, assignment]


class BothHooks(Two):
    def __init__(self) -> None:
        super().__init__()
        self.a.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
        self.a.register_forward_hook(lambda _, args, output: output * args[0].square() * 3)


class InPlaceAfterwards(Two):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.relu_(self.a(x)))
        return logits


class TwoNames(Two):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.alias = self.a


# Where they are not.


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


class UsedElsewhereByOneSampleAlone(Two):
    def forward(self, x: Tensor) -> Tensor:
        bent = torch.relu(x[:, :1] - 1) * self.a.weight.square().sum()
        logits: Tensor = self.b(torch.tanh(self.a(x))) + bent * torch.arange(3)
        return logits


class Tied(Two):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(4, 4, bias=False)
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.tanh(self.c(self.a(x))))
        return logits


class TiedBias(Two):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(4, 4)
        self.c.bias = self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.tanh(self.c(torch.tanh(self.a(x)))))
        return logits


class TiedBiasOnRows(TiedBias):
    def forward(self, x: Tensor) -> Tensor:
        rows = self.c(torch.stack([x, 2 * x], dim=1)).mean(dim=1)
        logits: Tensor = self.b(torch.tanh(self.a(x)) + rows)
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


class NoBatch(Two):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(torch.stack([torch.tanh(self.a(one)) for one in x]))
        return logits


class Parametrized(Two):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.a)


class Pruned(Two):
    def __init__(self) -> None:
        super().__init__()
        prune.l1_unstructured(self.a, "weight", amount=0.4)


class Masked(Two):
    """A weight that is replaced for the call alone, as masks of tasks do."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.arange(16).reshape(4, 4) % 3 > 0
        masked = functional_call(self.a, {"weight": self.a.weight * mask}, (x,))
        logits: Tensor = self.b(torch.tanh(masked))
        return logits


class Binary(Two):
    def forward(self, x: Tensor) -> Tensor:
        straight = self.a.weight + (self.a.weight.sign() - self.a.weight).detach() * self.a.weight.abs().mean()
        logits: Tensor = self.b(torch.tanh(functional_call(self.a, {"weight": straight}, (x,))))
        return logits


class Differentiated(nn.Module):
    """A model with a gradient in it, as of an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.a, self.b = nn.Parameter(torch.ones(4)), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x * self.scale
        logits: Tensor = self.b(torch.tanh(self.a(hidden)))
        (force,) = torch.autograd.grad(logits.logsumexp(1).sum(), hidden, create_graph=True)
        return logits + force[:, :3]


class DifferentiatedByFunc(Two):
    def forward(self, x: Tensor) -> Tensor:
        force: Tensor = torch.func.grad(lambda at: self.b(torch.tanh(self.a(at))).logsumexp(1).sum())(x)
        return force[:, :3]


class Unused(Two):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(x)
        return logits


class Gate(Two):
    """An input that is far too large to be squared in float32, behind a gate that is shut."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(x) + 0 * self.a(x + 1e200)[:, :3]
        return logits


BOTH, LAST = ["a.weight", "b.weight"], ["b.weight"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Two, BOTH),
        (ByKeyword, BOTH),
        (Subclass, BOTH),
        (BothHooks, BOTH),
        (InPlaceAfterwards, BOTH),
        (TwoNames, BOTH),
        (OwnForward, LAST),
        (UsedTwice, LAST),
        (WeightUsedElsewhere, LAST),
        (BiasUsedElsewhere, LAST),
        (UsedElsewhereByOneSampleAlone, LAST),
        (Tied, LAST),
        (TiedBias, ["b.weight", "c.weight"]),
        (TiedBiasOnRows, LAST),
        (Rows, LAST),
        (RowsInFront, LAST),
        (NoBatch, LAST),
        (Parametrized, []),  # what is left is the smaller part
        (Pruned, []),
        (Masked, LAST),
        (Binary, LAST),
        (Unused, LAST),
        (Gate, LAST),
        (Differentiated, []),
        (DifferentiatedByFunc, []),
        (lambda: nn.Linear(4, 3), ["weight"]),
        (
            lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.LayerNorm(5), nn.Linear(5, 3)),
            ["0.weight", "2.weight"],
        ),
        (
            lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, 3)),
            ["3.weight"],
        ),
    ],
)
@all_kinds
def test_where_factors_are_kept_and_the_numbers(kind: Kind, make: Callable[[], nn.Module], expected: list[str]) -> None:
    torch.manual_seed(3)
    model, data = make().double(), samples()
    assert factored(model, data) == expected
    if kind == "exact" and make is Differentiated:
        kind = "empirical"  # the probabilities of labels are asked for without gradients
    found = importance(model, data, kind)
    assert_same(found, by_loops(model, data, kind))
    assert any(bool(t.any()) for t in found.values())


def test_a_row_that_is_edited_afterwards_is_refused_as_in_training() -> None:
    class Edited(Two):
        def forward(self, x: Tensor) -> Tensor:
            row = torch.tanh(2 * x)
            hidden = self.a(row)
            row.mul_(3)
            logits: Tensor = self.b(hidden + row)
            return logits

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        importance(Edited().double(), samples())


def test_a_loss_that_reads_the_parameters() -> None:
    model, data = Two().double(), samples()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) + model.a.weight.square().sum()

    assert factored(model, data, loss) == LAST
    assert_same(importance(model, data, loss=loss), by_loops(model, data, loss=loss))


def test_a_module_under_two_names_is_left_as_it_was() -> None:
    model, data = TwoNames().double(), samples()
    weight = model.a.weight
    importance(model, data)
    assert model.a.weight is weight
    F.cross_entropy(model(data[0]), data[1]).backward()
    assert weight.grad is not None
    assert bool(weight.grad.any())


@contextmanager
def everywhere(hook: Callable[..., Any]) -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_a_hook_on_all_modules_sees_what_it_sees_in_training() -> None:
    model, data = Two().double(), samples()
    with everywhere(lambda module, _, output: output.sin() if isinstance(module, nn.Linear) else None):
        assert factored(model, data) == BOTH
        assert_same(importance(model, data), by_loops(model, data))


def test_a_forward_that_is_patched_for_all_layers_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def quantized(self: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight.abs().mean(), self.bias)

    monkeypatch.setattr(nn.Linear, "forward", quantized)
    model, data = Two().double(), samples()
    assert factored(model, data) == []
    assert_same(importance(model, data), by_loops(model, data))


def test_frozen_parameters_are_passed_over() -> None:
    model, data = Two().double(), samples()
    model.a.weight.requires_grad_(False)
    model.b.bias.requires_grad_(False)
    assert factored(model, data) == LAST
    found = importance(model, data)
    assert_same(found, by_loops(model, data))
    assert not bool(found["a.weight"].any())
    assert not bool(found["b.bias"].any())


@pytest.mark.parametrize("names", [["a.weight"], ["a.bias"], ["b.weight", "a.bias"]])
def test_what_is_not_protected_does_not_change_what_is(names: list[str]) -> None:
    model, data = Two().double(), samples()
    whole = by_loops(model, data)
    found = importance(model, data, named=[(name, p) for name, p in model.named_parameters() if name in names])
    assert sorted(found) == sorted(names)
    assert_same(found, {name: whole[name] for name in names})


def test_a_layer_that_is_found_out_late_is_kept_whole_from_there_on() -> None:
    # Only samples of the second chunk use the weight elsewhere.
    torch.manual_seed(3)
    model, (x, y) = UsedElsewhereByOneSampleAlone().double(), samples(8)
    x[:4, 0], x[4:, 0] = -1, 2
    assert factored(model, (x[:4], y[:4])) == BOTH
    assert factored(model, (x, y)) == LAST
    assert_same(importance(model, (x, y)), by_loops(model, (x, y)))


# Compiled models, and what is left behind.


def test_of_a_model_with_a_compiled_part_gradients_are_kept_whole() -> None:
    data, compiled = samples(), 0

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        nonlocal compiled
        compiled += 1
        return graph.forward

    def inside(part: Any) -> nn.Module:
        return nn.Sequential(part, nn.Linear(3, 3).double())

    plain = Two().double()
    in_place, layer = copy.deepcopy(plain), copy.deepcopy(plain)
    in_place.compile(backend=backend)
    layer.a.compile(backend=backend)
    wrapped: Any = torch.compile(copy.deepcopy(plain), backend=backend)
    for model in (inside(in_place), inside(layer), inside(wrapped)):
        theta = dict(model.named_parameters())
        assert linear_layers(model, theta) == {}
        compiled = 0
        _SideBySide(model, theta, F.cross_entropy, torch.square)((*data, torch.ones(9)))
        assert compiled <= 1
    assert list(linear_layers(plain, dict(plain.named_parameters()))) == BOTH


def test_a_layer_runs_as_it_did_afterwards() -> None:
    torch.manual_seed(3)
    for make in (Two, OwnForward):
        model, data = make().double(), samples()
        own, before = vars(model.a).get("forward"), model(data[0])
        importance(model, data)
        assert vars(model.a).get("forward") is own
        assert torch.equal(model(data[0]), before)

        def fails(_: Tensor, __: Tensor) -> Tensor:
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            importance(model, data, loss=fails)
        assert vars(model.a).get("forward") is own
        assert torch.equal(model(data[0]), before)


def test_activation_checkpointing_goes_one_by_one() -> None:
    class Checkpointed(Two):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.b(torch.tanh(checkpoint(self.a, x, use_reentrant=False)))
            return logits

    model, data = Checkpointed().double(), samples()
    with pytest.warns(si.SynapseWarning, match="vmap cannot run this model.*saved tensor hooks"):
        found = importance(model, data)
    assert_same(found, by_loops(model, data))


# Precision and memory.


class Autocast(Two):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits: Tensor = super().forward(x)
        return logits.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [Two, Autocast])
@pytest.mark.filterwarnings("ignore:.*(bfloat16|float16):synaptic_intelligence.SynapseWarning")
def test_numbers_of_few_digits_are_kept_whole(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    model, (x, y) = make().to(dtype), samples()
    data = x.to(dtype), y
    assert factored(model, data) == (BOTH if make is Two and dtype == torch.float32 else [])
    exact = Two().double()
    exact.load_state_dict(model.state_dict())
    found = importance(model, data)
    coarsest = torch.finfo(torch.bfloat16 if make is Autocast else dtype).eps
    # By rows, outputs, activations and gradients, and squared.
    assert_same({name: t.double() for name, t in found.items()}, by_loops(exact, (data[0].double(), y)), 8 * coarsest)


def test_nothing_is_kept_as_factors_where_products_may_be_rounded() -> None:
    model, data = Two().double(), samples()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert factored(model, data) == []
    finally:
        torch.set_float32_matmul_precision(before)
    assert factored(model, data) == BOTH


def test_squares_of_factors_do_not_underflow() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    theta = dict(model.named_parameters())
    data = torch.full((2, 1), 1e12), torch.full((2,), 1e-24), torch.ones(2)

    def run(parameters: Any, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = functional_call(model, parameters, (x[None],))
        return (output * y).sum()

    (found,) = sums_of_factors(run, theta, {"weight": model}, torch.square, data).values()
    assert found.item() == pytest.approx(2e-24, rel=1e-5)


@pytest.mark.parametrize("count", [64, 1024])
def test_what_one_sample_of_many_does_otherwise_is_found_out_or_does_not_matter(count: int) -> None:
    class Rarely(Two):
        """One input in many uses the weight a second time, more or less of it."""

        size = 0.0

        def forward(self, x: Tensor) -> Tensor:
            rarely = (x[:, :1] > 100) * self.size * torch.sin(x @ self.a.weight.T).sum(dim=1, keepdim=True)
            logits: Tensor = self.b(torch.tanh(self.a(x))) + rarely * torch.arange(3)
            return logits

    torch.manual_seed(3)
    model, (x, y) = Rarely(), samples(count)
    x[-1] = torch.tensor([101.0, 1, 1, 1])
    for size in (1.0, 1e-2, 1e-4, 1e-6, 1e-8):
        Rarely.size = size
        exact = Rarely().double()
        exact.load_state_dict(model.state_dict())
        found = importance(model, (x.float(), y), chunk_size=count)
        assert_same({name: t.double() for name, t in found.items()}, by_loops(exact, (x, y)), 1e-4)


def test_what_is_opposite_in_two_samples_does_not_cancel() -> None:
    class Odd(Two):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.b(torch.tanh(self.a(x))) + torch.sin(x[:, :1]) * self.a.weight.square().sum()
            return logits

    model, (x, y) = Odd().double(), samples(4)
    x = torch.cat([x[:1], -x[:1], x[:1], -x[:1]])
    assert factored(model, (x, y), lambda output, target: output.sum()) == LAST


def test_samples_without_weight_do_not_count() -> None:
    model, (x, y) = Two().double(), samples(4)
    theta = dict(model.named_parameters())

    def objective(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target.long()) / target.clamp(max=0).add(1)

    weight = torch.tensor([1.0, 0.0, 1.0, 1.0])
    y = torch.tensor([0.0, -1.0, 0.0, 0.0])  # the second has an infinite loss
    sums = _SideBySide(model, theta, objective, torch.square)
    found = sums((x, y, weight))
    assert list(sums.layers) == BOTH
    counting = x[weight > 0], torch.zeros(3, dtype=torch.long)
    assert_same(dict(found), {name: 3 * t for name, t in by_loops(model, counting).items()})


def test_where_linear_layers_are_the_smaller_part_gradients_are_taken_whole_at_once() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 8, 3), nn.Flatten(), nn.Linear(16, 3, bias=False))
    larger = nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 20, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(20, 3)
    )
    data = samples()
    assert factored(model.double(), data) == ["3.weight"]
    assert factored(larger.double(), data) == []
    assert_same(importance(larger, data), by_loops(larger, data))


def test_layers_that_cannot_be_watched_are_kept_whole() -> None:
    class Bytes(Two):
        def __init__(self) -> None:
            super().__init__()

            class Casts(nn.Linear):
                def forward(self, x: Tensor) -> Tensor:
                    return F.linear(x.double() / 255, self.weight, self.bias)

            self.a = Casts(4, 4)

    class TakesAway(Two):
        def forward(self, x: Tensor) -> Tensor:
            vars(self.a).pop("forward", None)
            return super().forward(x)

    class NoSetter(Two):
        def __init__(self) -> None:
            super().__init__()

            class Property(nn.Linear):
                @property
                def forward(self) -> Callable[[Tensor], Tensor]:  # type: ignore[override]
                    return lambda x: F.linear(x, self.weight, self.bias)

            self.a = Property(4, 4)

    x, y = samples()
    for make, inputs in ((Bytes, (x * 20 + 100).byte()), (TakesAway, x), (NoSetter, x)):
        model = make().double()
        assert_same(importance(model, (inputs, y)), by_loops(model, (inputs, y)))


def test_nothing_larger_than_the_parameters_is_made() -> None:
    model, count = nn.Linear(40, 30), 64
    data = torch.randn(count, 40), torch.randint(30, (count,))
    with Largest() as largest:
        importance(model, data, chunk_size=16)
    assert largest.elements == model.weight.numel()
