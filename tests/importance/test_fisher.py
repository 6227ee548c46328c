"""The diagonal Fisher against plain loops over samples and classes, and what it must leave alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from operations import Largest, Whole
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import synaptic_intelligence as si

Kind = Literal["exact", "empirical"]
Data = list[tuple[Tensor, Tensor]]

both_kinds = pytest.mark.parametrize("kind", ["exact", "empirical"])


def mlp(*, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)).to(dtype)


def samples(sizes: Iterable[int] = (7, 5, 1), *, dtype: torch.dtype = torch.float64) -> Data:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, 4, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(3, (size,), generator=generator),
        )
        for size in sizes
    ]


def importance(
    model: nn.Module,
    kind: Kind,
    data: Any,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    chunk_size: int = 64,
    named: Iterable[tuple[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Omega after one task of this data, as a user gets it."""
    named = list(model.named_parameters() if named is None else named)
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1)
    fisher = si.Fisher(model, loss, kind=kind, chunk_size=chunk_size)
    synapses = si.Consolidator(named, optimizer, fisher, c=1.0)
    synapses.consolidate(data)
    synapses.detach()
    return dict(synapses.omega)


def plain_fisher(model: nn.Module, kind: Kind, data: Data) -> dict[str, Tensor]:
    """One backward pass for each sample and class, in eval mode; it shares no code with the library."""
    model.eval()
    named = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    count = 0
    for inputs, targets in data:
        for i in range(len(inputs)):
            count += 1
            output = model(inputs[i : i + 1])[0]
            probability = torch.softmax(output, dim=0).tolist()
            labels = range(len(probability)) if kind == "exact" else [int(targets[i])]
            for label in labels:
                weight = probability[label] if kind == "exact" else 1.0
                if weight == 0:
                    continue
                log_likelihood = model(inputs[i : i + 1])[0].log_softmax(dim=0)[label]
                gradients = torch.autograd.grad(log_likelihood, list(named.values()))
                for name, g in zip(named, gradients, strict=True):
                    total[name] += weight * g**2
    return {name: t / count for name, t in total.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert list(found) == list(expected)
    for name, t in expected.items():
        assert float((found[name] - t).abs().max()) <= tolerance * float(t.abs().max()), name


# The numbers.


@both_kinds
@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_equals_plain_loops_for_every_chunk_size(kind: Kind, chunk_size: int) -> None:
    model, data = mlp(), samples()
    assert_same(importance(model, kind, data, chunk_size=chunk_size), plain_fisher(model, kind, data))


def test_exact_is_the_closed_form_of_softmax_regression() -> None:
    model, data = nn.Linear(4, 3).double(), samples()
    x = torch.cat([inputs for inputs, _ in data])
    p = torch.softmax(x @ model.weight.detach().T + model.bias.detach(), dim=1)
    found = importance(model, "exact", data)
    # The gradient of -log p_y by W_ci is (p_c - [y = c]) x_i, and the variance of [y = c] is p_c (1 - p_c).
    expected = {"weight": (p * (1 - p)).T @ x**2 / len(x), "bias": (p * (1 - p)).mean(dim=0)}
    assert_same(found, expected)


def test_empirical_by_hand() -> None:
    # One weight per class, both zero, so p = 1/2. Sample x = 2, y = 0: gradient (-1/2, 1/2) x = (-1, 1), squared 1.
    # Sample x = 4, y = 1: gradient (2, -2), squared 4. The mean is 2.5, where the squared mean would be 0.25.
    model = nn.Linear(1, 2, bias=False).double()
    nn.init.zeros_(model.weight)
    data = [(torch.tensor([[2.0], [4.0]], dtype=torch.float64), torch.tensor([0, 1]))]
    assert importance(model, "empirical", data)["weight"].flatten().tolist() == [2.5, 2.5]


def test_is_not_the_square_of_the_mean_gradient() -> None:
    model, data = mlp(), samples([12])
    found = importance(model, "empirical", data)
    gradients = torch.autograd.grad(F.cross_entropy(model(data[0][0]), data[0][1]), list(model.parameters()))
    for t, g in zip(found.values(), gradients, strict=True):
        assert float(t.sum()) > 1.5 * float(g.square().sum())  # by Jensen it is never less


def test_exact_and_empirical_differ_and_only_empirical_asks_for_labels() -> None:
    model, data = mlp(), samples()
    others = [(x, (y + 1) % 3) for x, y in data]
    exact, empirical = importance(model, "exact", data), importance(model, "empirical", data)
    assert_same(importance(model, "exact", others), exact)
    for other in (importance(model, "empirical", others), exact):
        assert float((other["3.weight"] - empirical["3.weight"]).abs().max()) > 0.01


@both_kinds
def test_the_division_into_batches_does_not_matter(kind: Kind) -> None:
    model, (x, y) = mlp(), samples([13])[0]
    together = importance(model, kind, [(x, y)])
    for sizes in ([1] * 13, [12, 1], [6, 7]):
        assert_same(importance(model, kind, zip(x.split(sizes), y.split(sizes), strict=True)), together)


@both_kinds
def test_takes_a_data_loader_and_lists_as_batches(kind: Kind) -> None:
    model, (x, y) = mlp(), samples([13])[0]
    together = importance(model, kind, [(x, y)])
    assert_same(importance(model, kind, DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)), together)
    assert_same(importance(model, kind, [[x, y]]), together)


@both_kinds
def test_a_sum_and_a_mean_as_loss_are_the_same_for_one_sample(kind: Kind) -> None:
    def summed(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="sum")

    model, data = mlp(), samples()
    assert_same(importance(model, kind, data, loss=summed), importance(model, kind, data))


def test_empirical_takes_any_output_and_target() -> None:
    model, (x, _) = nn.Linear(4, 2).double(), samples([6])[0]
    y = torch.randn(6, 2, dtype=torch.float64)
    found = importance(model, "empirical", [(x, y)], loss=F.mse_loss)
    residual = model(x).detach() - y  # mse is a mean over 2 outputs, so its gradient is just the residual
    assert_same(found, {"weight": (residual**2).T @ x**2 / 6, "bias": (residual**2).mean(dim=0)})


@both_kinds
def test_tied_weights_count_once_with_both_uses(kind: Kind) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(4, 4, bias=False)
            self.decode = nn.Linear(4, 4, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.decode(torch.tanh(self.encode(x)))
            return logits

    model, data = Tied().double(), samples()
    found = importance(model, kind, data)
    assert list(found) == ["encode.weight"]
    assert_same(found, plain_fisher(model, kind, data))


@both_kinds
def test_a_filtered_model_gives_the_same_numbers_for_the_rest(kind: Kind) -> None:
    model, data = mlp(), samples()
    whole = importance(model, kind, data)
    body = [(name, p) for name, p in model.named_parameters() if not name.startswith("3.")]
    assert_same(importance(model, kind, data, named=body), {name: whole[name] for name, _ in body})


@both_kinds
def test_names_may_differ_from_the_models_own(kind: Kind) -> None:
    model, data = mlp(), samples()
    whole = importance(model, kind, data)
    named = [(f"encoder.{name}", p) for name, p in model.named_parameters()]
    assert_same(importance(model, kind, data, named=named), {f"encoder.{name}": t for name, t in whole.items()})


@both_kinds
def test_a_model_that_is_frozen_as_a_whole_gains_nothing(kind: Kind) -> None:
    model = mlp().requires_grad_(False)
    assert not any(bool(t.any()) for t in importance(model, kind, samples()).values())


@both_kinds
def test_a_parameter_that_the_output_does_not_use_gains_nothing(kind: Kind) -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.used(x)
            return logits

    found = importance(Spare().double(), kind, samples())
    assert {name for name, t in found.items() if bool(t.any())} == {"used.weight", "used.bias"}


# Heads that are masked out.


class Masked(nn.Module):
    """A model with five classes, some of them out of the running."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.mask = nn.Linear(4, 5), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.mask(self.body(x), x)


def other_head(logits: Tensor, x: Tensor) -> Tensor:
    return logits.masked_fill(torch.tensor([False, False, False, True, True]), -torch.inf)


def other_head_by_adding(logits: Tensor, x: Tensor) -> Tensor:
    return logits + torch.tensor([0.0, 0.0, 0.0, -torch.inf, -torch.inf])


@both_kinds
@pytest.mark.parametrize("mask", [other_head, other_head_by_adding])
def test_a_masked_head_has_no_importance_and_does_not_spoil_the_rest(
    kind: Kind, mask: Callable[[Tensor, Tensor], Tensor]
) -> None:
    model, data = Masked(mask).double(), samples()
    found = importance(model, kind, data)
    assert_same(found, plain_fisher(model, kind, data))
    assert not bool(found["body.weight"][3:].any())
    assert not bool(found["body.bias"][3:].any())
    assert bool((found["body.weight"][:3] > 0).all())


def test_a_head_that_is_masked_for_some_samples_alone() -> None:
    def by_sample(logits: Tensor, x: Tensor) -> Tensor:
        other = (x[:, :1] > 0) & torch.tensor([False, False, False, True, True])
        return logits.masked_fill(other, -torch.inf)

    model, data = Masked(by_sample).double(), samples()
    found = importance(model, "exact", data)
    assert_same(found, plain_fisher(model, "exact", data))
    assert bool((found["body.weight"] > 0).all())


def test_a_class_without_probability_adds_nothing_though_its_loss_has_no_gradient() -> None:
    def naive_loss(output: Tensor, target: Tensor) -> Tensor:
        return -output.softmax(dim=1).gather(1, target[:, None]).log().mean()

    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data = torch.tensor([[1000.0], [0.0]], dtype=torch.float64)
    # For x = 1 the second class has probability exactly zero, and the naive loss of it the gradient NaN; for x = 0
    # both have 1/2, so that no class drops out of the batch, but the gradient is zero.
    data = [(torch.tensor([[1.0], [0.0]], dtype=torch.float64), torch.tensor([0, 0]))]
    assert not bool(importance(model, "exact", data, loss=naive_loss)["weight"].any())


# Models that vmap cannot run.


class Branch(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        # One sample at a time and a whole chunk must agree, so the branch looks at the weights.
        positive = (self.body.weight.sum() + 0 * x.sum()).item() > 0
        logits: Tensor = self.body(x)
        return logits if positive else -logits


class OldSquare(torch.autograd.Function):
    """An autograd.Function as they were written before setup_context."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return 2 * x * grad


class OldFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        apply: Callable[[Tensor], Tensor] = OldSquare.apply
        return apply(self.body(x))


class EditsInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        room = torch.zeros(len(x), 3, dtype=x.dtype)
        room[:, :] = self.body(x)
        return room


@both_kinds
@pytest.mark.parametrize("make", [Branch, OldFunction, EditsInPlace])
@pytest.mark.parametrize("chunk_size", [1, 64])
def test_falls_back_to_one_sample_at_a_time_with_the_same_numbers(
    kind: Kind, make: Callable[[], nn.Module], chunk_size: int
) -> None:
    model, data = make().double(), samples()
    with pytest.warns(si.SynapseWarning, match="vmap cannot run this model") as warned:
        found = importance(model, kind, data, chunk_size=chunk_size)
    assert len(warned) == 1  # said once, not for each chunk
    assert_same(found, plain_fisher(model, kind, data))


class BranchAndSpare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = Branch(), nn.Linear(2, 2)
        self.used.body.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.used(x)
        return logits


@both_kinds
def test_the_fallback_passes_over_frozen_and_unused_parameters(kind: Kind) -> None:
    with pytest.warns(si.SynapseWarning, match="vmap"):
        found = importance(BranchAndSpare().double(), kind, samples())
    assert {name for name, t in found.items() if bool(t.any())} == {"used.body.weight"}


# What it holds in memory.


@both_kinds
def test_no_more_gradients_than_a_chunk_are_held_at_once(kind: Kind) -> None:
    model, chunk_size = Whole(), 4
    data = [(torch.randn(32, 40), torch.randint(30, (32,)))]
    with Largest() as largest:
        importance(model, kind, data, chunk_size=chunk_size)
    assert largest.elements == chunk_size * model.weight.numel()


class Alive(TorchDispatchMode):
    """Remembers every tensor that an operation makes, without keeping it alive."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.made: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self.made.append(weakref.ref(one))
        return result

    def count(self) -> int:
        return len({id(one) for one in (reference() for reference in self.made) if one is not None})


@both_kinds
@pytest.mark.parametrize("wrap", [nn.Identity, Branch], ids=["vmap", "loop"])
@pytest.mark.filterwarnings("ignore:vmap cannot run:synaptic_intelligence.SynapseWarning")
def test_what_is_held_does_not_grow_with_the_data(kind: Kind, wrap: Callable[[], nn.Module]) -> None:
    # The head is not protected but requires gradients, so a careless sum would keep the graph of every batch.
    body, head = nn.Linear(4, 4), wrap()
    model = nn.Sequential(body, nn.Tanh(), head, nn.Linear(4 if wrap is nn.Identity else 3, 3))
    counts: list[int] = []
    alive = Alive()

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        for x, y in samples([4] * 6, dtype=torch.float32):
            counts.append(alive.count())
            yield x, y

    data = batches()
    with alive:
        importance(model, kind, data, named=body.named_parameters())
    assert len(counts) == 6
    assert counts[-1] <= counts[2], counts


# What it leaves alone.


def buffers_and_flags(model: nn.Module) -> dict[str, Any]:
    return {
        **{name: t.clone() for name, t in model.named_buffers()},
        **{f"{name} trains": module.training for name, module in model.named_modules()},
    }


def assert_undisturbed(model: nn.Module, before: dict[str, Any], random: Tensor) -> None:
    after = buffers_and_flags(model)
    assert list(after) == list(before)
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value is after[name]
        assert same, name
    assert torch.equal(torch.get_rng_state(), random)


@both_kinds
@pytest.mark.parametrize("wrap", [nn.Identity, Branch], ids=["vmap", "loop"])
@pytest.mark.filterwarnings("ignore:vmap cannot run:synaptic_intelligence.SynapseWarning")
def test_batch_norm_dropout_flags_and_random_state_stay(kind: Kind, wrap: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), wrap(), nn.Linear(4, 3))
    if wrap is Branch:
        model[4] = nn.Identity()
    model.double()
    model(samples([9])[0][0])  # so that BatchNorm has statistics that are not the initial ones
    model[1].eval()
    before, random = buffers_and_flags(model), torch.get_rng_state()
    data = samples()
    found = importance(model, kind, data)
    assert_undisturbed(model, before, random)
    assert_same(found, plain_fisher(model, kind, data))  # which is in eval mode


@both_kinds
def test_flags_and_random_state_come_back_when_the_loss_raises(kind: Kind) -> None:
    def broken(output: Tensor, target: Tensor) -> Tensor:
        torch.rand(1)
        raise ZeroDivisionError("mine")

    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    model[1].eval()
    before, random = buffers_and_flags(model), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError, match="mine"):
        importance(model, kind, samples(), loss=broken)
    assert_undisturbed(model, before, random)


@both_kinds
def test_random_numbers_in_eval_mode_leave_no_trace(kind: Kind) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.body(x + 0.1 * torch.randn(x.shape, dtype=x.dtype))
            return logits

    model = Noisy().double()
    before, random = buffers_and_flags(model), torch.get_rng_state()
    with pytest.warns(si.SynapseWarning, match="vmap"):
        importance(model, kind, samples())
    assert_undisturbed(model, before, random)


@both_kinds
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.filterwarnings("ignore:vmap cannot run:synaptic_intelligence.SynapseWarning")
def test_buffers_that_the_model_changes_in_eval_mode_come_back(kind: Kind, in_place: bool) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3)
            self.calls: Tensor
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if in_place:
                self.calls += 1
            else:
                self.calls = self.calls + 1
            logits: Tensor = self.body(x)
            return logits

    model = Counts().double()
    calls = model.calls
    before, random = buffers_and_flags(model), torch.get_rng_state()
    importance(model, kind, samples())
    assert_undisturbed(model, before, random)
    assert model.calls is calls


@both_kinds
def test_gradients_stay(kind: Kind) -> None:
    model = mlp()
    model(samples()[0][0]).square().sum().backward()
    before = {name: p.grad for name, p in model.named_parameters()}
    values = {name: g.clone() for name, g in before.items() if g is not None}
    importance(model, kind, samples())
    for name, p in model.named_parameters():
        assert p.grad is before[name]
        assert p.grad is not None
        assert torch.equal(p.grad, values[name])


# What is refused.


def bad_data() -> list[Any]:
    x, y = samples([4], dtype=torch.float32)[0]
    return [
        pytest.param(x, id="a-tensor"),
        pytest.param((x, y), id="one-batch-without-its-list"),
        pytest.param(7, id="a-number"),
        pytest.param(TensorDataset(x, y), id="a-data-set"),
        pytest.param([x], id="inputs-alone"),
        pytest.param([(x,)], id="a-batch-of-one"),
        pytest.param([(x, y, y)], id="a-batch-of-three"),
        pytest.param([{"inputs": x, "targets": y}], id="dictionaries"),
        pytest.param([(x, y[:3])], id="of-different-length"),
        pytest.param([(x, y.tolist())], id="targets-in-a-list"),
        pytest.param([(x[0, 0], y[0])], id="without-dimensions"),
        pytest.param(["xy"], id="text"),
    ]


@pytest.mark.parametrize("data", bad_data())
def test_data_of_another_type_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match=r"batch|dimension|0-d"):
        importance(mlp(dtype=torch.float32), "empirical", data)


@both_kinds
@pytest.mark.parametrize("sizes", [[], [0], [0, 0]], ids=str)
def test_data_without_samples_is_refused(kind: Kind, sizes: list[int]) -> None:
    with pytest.raises(si.SynapseError, match="no samples"):
        importance(mlp(), kind, samples(sizes))


@both_kinds
def test_an_iterator_that_was_used_up_is_refused(kind: Kind) -> None:
    data = iter(samples())
    importance(mlp(), kind, data)
    with pytest.raises(si.SynapseError, match="no samples"):
        importance(mlp(), kind, data)


@both_kinds
def test_an_empty_batch_among_others_adds_nothing(kind: Kind) -> None:
    model, data = mlp(), samples()
    empty = samples([0])
    assert_same(importance(model, kind, [*empty, data[0], *empty, *data[1:]]), importance(model, kind, data))


@both_kinds
def test_parameters_of_another_model_are_refused(kind: Kind) -> None:
    model, other = mlp(), mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fisher = si.Fisher(other, F.cross_entropy, kind=kind)
    synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=1.0)
    with pytest.raises(si.SynapseError, match=r"0\.weight.*same model"):
        synapses.consolidate(samples())


class Returns(nn.Module):
    """A model whose output is made from its logits by a function."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.form = nn.Linear(4, 3), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.body(x))


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda logits: logits.sum(dim=1), id="one-dimension"),
        pytest.param(lambda logits: logits[:, None], id="three-dimensions"),
        pytest.param(lambda logits: (logits, logits), id="a-tuple"),
        pytest.param(lambda logits: {"logits": logits}, id="a-dictionary"),
    ],
)
def test_exact_needs_logits(form: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ValueError, match=r"needs logits \[samples, classes\]"):
        importance(Returns(form).double(), "exact", samples())


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, si.SynapseError])
@both_kinds
def test_errors_of_the_users_own_loss_come_through(kind: Kind, error: type[Exception]) -> None:
    def broken(output: Tensor, target: Tensor) -> Tensor:
        raise error("mine")

    with pytest.raises(error, match="mine"):  # and no warning of vmap, which is not to blame
        importance(mlp(), kind, samples(), loss=broken)


@both_kinds
@pytest.mark.parametrize("body", [nn.Identity, Branch], ids=["vmap", "loop"])
@pytest.mark.filterwarnings("ignore:vmap cannot run:synaptic_intelligence.SynapseWarning")
def test_a_loss_without_reduction_is_one_number_for_one_sample(kind: Kind, body: Callable[[], nn.Module]) -> None:
    def each(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def by_class(output: Tensor, target: Tensor) -> Tensor:
        return output - F.one_hot(target, 3)

    def number(output: Tensor, target: Tensor) -> Any:
        return 1.0

    model, data = nn.Sequential(body(), nn.Linear(4 if body is nn.Identity else 3, 3)).double(), samples()
    assert_same(importance(model, kind, data, loss=each), importance(model, kind, data))
    assert_same(importance(model, kind, data, loss=each), plain_fisher(model, kind, data))
    with pytest.raises(ValueError, match=r"one number for a batch of one sample, not a tensor of shape \[1, 3\]"):
        importance(model, kind, data, loss=by_class)
    with pytest.raises(TypeError, match="loss must return a tensor, not float"):
        importance(model, kind, data, loss=number)


@both_kinds
def test_a_loss_that_is_not_finite_is_refused(kind: Kind) -> None:
    def infinite(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) * torch.inf

    with pytest.raises(si.SynapseError, match="not finite"):
        importance(mlp(), kind, samples(), loss=infinite)


@pytest.mark.parametrize("kind", ["Exact", "", None, 1])
def test_an_unknown_kind_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="kind must be 'exact' or 'empirical'"):
        si.Fisher(mlp(), F.cross_entropy, kind=kind)


@pytest.mark.parametrize("chunk_size", [0, -1, 1.5, "8", None])
def test_a_chunk_size_that_is_no_positive_number_is_refused(chunk_size: Any) -> None:
    with pytest.raises(ValueError, match="chunk_size must be a positive whole number"):
        si.Fisher(mlp(), F.cross_entropy, kind="exact", chunk_size=chunk_size)


def test_kinds_do_not_load_each_other() -> None:
    def synapses(kind: Kind, chunk_size: int) -> si.Consolidator:
        model = mlp()
        fisher = si.Fisher(model, F.cross_entropy, kind=kind, chunk_size=chunk_size)
        return si.Consolidator(model.named_parameters(), torch.optim.SGD(model.parameters(), lr=0.1), fisher, c=1.0)

    state = synapses("exact", 8).state_dict()
    synapses("exact", 2).load_state_dict(state)  # the chunk size does not change the numbers
    with pytest.raises(si.SynapseError, match=r"exact.*empirical"):
        synapses("empirical", 8).load_state_dict(state)
