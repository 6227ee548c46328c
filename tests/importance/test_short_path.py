"""The short path against the path integral of a training that is really taken, and what it must leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import synaptic_intelligence as si

LR, XI = 0.3, 0.05
Data = list[tuple[Tensor, Tensor]]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)).double()


def samples(sizes: Iterable[int] = (7, 5, 1, 6)) -> Data:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, 4, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for size in sizes
    ]


def consolidator(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    *,
    lr: float = LR,
    xi: float = XI,
    named: Iterable[tuple[str, Tensor]] | None = None,
) -> si.Consolidator:
    named = list(model.named_parameters() if named is None else named)
    optimizer = torch.optim.Adam([p for _, p in named], lr=0.1)
    return si.Consolidator(named, optimizer, si.ShortPath(model, loss, lr=lr, xi=xi), c=1.0)


def importance(model: nn.Module, data: Any, **options: Any) -> dict[str, Tensor]:
    """Omega after one task of this data, as a user gets it."""
    synapses = consolidator(model, **options)
    synapses.consolidate(data)
    synapses.detach()
    return dict(synapses.omega)


def walked(
    model: nn.Module, data: Data, unprotected: str = "none", before: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Omega of a copy of the model that is really trained by SGD on these batches, in eval mode."""
    model = copy.deepcopy(model).eval()
    named = dict(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named.items() if not name.startswith(unprotected)]},
        {"params": [p for name, p in named.items() if name.startswith(unprotected)], "c": None},
    ]
    optimizer = torch.optim.SGD([group for group in groups if group["params"]], lr=LR)
    synapses = si.SynapticIntelligence(named.items(), optimizer, c=0.0, xi=XI)
    if before is not None:
        synapses.load_state_dict({**synapses.state_dict(), "omega": before, "tasks": 1})
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    synapses.consolidate()
    return dict(synapses.omega)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert list(found) == list(expected)
    for name, t in expected.items():
        assert float((found[name] - t).abs().max()) <= tolerance * float(t.abs().max()), name


def test_equals_the_path_integral_of_sgd_on_the_same_batches() -> None:
    model, data = mlp(), samples()
    found = importance(model, data)
    assert_same(found, walked(model, data))
    assert all(bool(t.any()) for t in found.values())


def test_a_second_task_is_added_as_the_path_integral_adds_it() -> None:
    model, data = mlp(), samples()
    first = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    end = si.TaskEnd(
        dict(model.named_parameters()), {n: p.detach() for n, p in model.named_parameters()}, {}, first, data
    )
    found = si.ShortPath(model, F.cross_entropy, lr=LR, xi=XI).new_omega(end)
    assert_same(found, walked(model, data, before=first))


def test_by_hand() -> None:
    # As the first task of test_path_integral.test_two_tasks_by_hand: loss 1/2 (theta - 4)^2 from 0 at rate 1/2.
    #   step 1: g = -4, theta 0 -> 2, path 8; step 2: g = -2, theta 2 -> 3, path 10. omega = 10 / (3^2 + 1) = 1.
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    batch = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 4.0, dtype=torch.float64)

    def half_square(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().sum()

    assert importance(model, [batch, batch], loss=half_square, lr=0.5, xi=1.0)["weight"].item() == 1
    assert model.weight.item() == 0


def test_in_bootstrap_it_starts_from_the_checkpoint_and_the_path_integral_goes_on() -> None:
    model, data = mlp(), samples()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.0, xi=XI)
    synapses.bootstrap(si.ShortPath(model, F.cross_entropy, lr=LR, xi=XI), data, weight=2.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert_same(dict(synapses.omega), {name: 2 * t for name, t in walked(model, data).items()})
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    synapses.consolidate()
    fresh = mlp()
    fresh.load_state_dict(before)
    assert_same(dict(synapses.omega), {name: 3 * t for name, t in walked(fresh, data).items()})


def test_what_is_not_protected_moves_along() -> None:
    model, data = mlp(), samples()
    body = [(name, p) for name, p in model.named_parameters() if not name.startswith("3.")]
    found = importance(model, data, named=[(f"encoder.{name}", p) for name, p in body])
    expected = walked(model, data, unprotected="3.")
    assert_same(found, {f"encoder.{name}": expected[name] for name, _ in body})


def test_what_is_frozen_stays() -> None:
    model, data = mlp(), samples()
    model[0].requires_grad_(False)
    found = importance(model, data)
    assert {name for name, t in found.items() if not bool(t.any())} == {"0.weight", "0.bias"}
    expected = walked(model, data)
    assert_same({name: found[name] for name in expected}, expected)


@pytest.mark.parametrize("part", [slice(None), slice(3)], ids=["everything", "all-that-the-loss-depends-on"])
def test_a_loss_that_nothing_can_lower_leaves_omega_as_it_is(part: slice) -> None:
    class WithSpareHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = mlp(), mlp()

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.used(x)
            return output

    model = WithSpareHead()
    model.used.requires_grad_(False)
    if part == slice(None):
        model.spare.requires_grad_(False)
    assert not any(bool(t.any()) for t in importance(model, samples()).values())


def test_batch_norm_and_dropout_are_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    model(samples()[0][0])  # so that BatchNorm has statistics that are not the initial ones
    buffers = {name: t.clone() for name, t in model.named_buffers()}
    found = importance(model, samples())
    assert model.training
    assert all(torch.equal(t, buffers[name]) for name, t in model.named_buffers())
    assert_same(found, walked(model, samples()))


def test_tied_weights_move_as_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.decode(torch.tanh(self.encode(x)))
            return logits

    model = Tied().double()
    assert_same(importance(model, samples()), walked(model, samples()))


def test_a_module_under_two_names_moves_as_one_and_is_left_as_it_was() -> None:
    class TwoNames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.alias = self.layer

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.alias(x)
            return logits

    torch.manual_seed(0)
    model, data = TwoNames().double(), samples()
    plain = copy.deepcopy(model.layer)
    weight = model.layer.weight
    found = importance(model, data)
    assert model.layer.weight is weight
    assert_same({name.removeprefix("layer."): t for name, t in found.items()}, importance(plain, data))
    assert any(bool(t.any()) for t in found.values())


def test_a_checkpointed_model_is_run_again_with_the_copies() -> None:
    """Backward runs the layer once more, and must find the copies there, not the live weights."""

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = mlp()[:3], nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(checkpoint(self.body, x, use_reentrant=False))
            return logits

    model = Checkpointed().double()
    assert_same(importance(model, samples()), walked(model, samples()))


def test_steps_of_low_precision_weights_are_not_rounded_away() -> None:
    # f = theta x from theta = 1, with the loss f itself: g = x = 1, and each step moves by 2^-12, which bfloat16 rounds
    # to nothing. path = 4 * 2^-12, moved = 4 * 2^-12, xi = 1.
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    batch = torch.ones(1, 1, dtype=torch.bfloat16), torch.zeros(1)

    def output(output: Tensor, target: Tensor) -> Tensor:
        return output.sum()

    with pytest.warns(si.SynapseWarning, match="bfloat16"):
        found = importance(model, [batch] * 4, loss=output, lr=2**-12, xi=1.0)
    assert found["weight"].dtype == torch.float32
    assert found["weight"].item() == pytest.approx(2**-10 / (2**-20 + 1), rel=1e-6)


def test_the_loss_may_be_a_module() -> None:
    model = mlp()
    assert_same(importance(model, samples(), loss=nn.CrossEntropyLoss()), importance(model, samples()), 0.0)


def test_an_empty_batch_among_others_adds_nothing() -> None:
    model, data = mlp(), samples()
    assert_same(importance(model, [*samples([0]), data[0], *samples([0]), *data[1:]]), importance(model, data), 0.0)


def test_flags_and_random_state_come_back_when_the_loss_raises() -> None:
    def broken(output: Tensor, target: Tensor) -> Tensor:
        torch.rand(1)
        raise ZeroDivisionError("mine")

    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    model[1].eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError, match="mine"):
        importance(model, samples(), loss=broken)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


# What is refused.


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]], ids=str)
def test_data_without_samples_is_refused(sizes: list[int]) -> None:
    with pytest.raises(si.SynapseError, match="no samples"):
        importance(mlp(), samples(sizes))


def test_a_rate_at_which_the_copies_run_off_is_refused() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    before = model.weight.item()
    batch = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    with pytest.raises(si.SynapseError, match=r"lower lr than 1000\.0"):
        importance(model, [batch] * 200, loss=F.mse_loss, lr=1e3)
    assert model.weight.item() == before


def test_parameters_of_another_model_are_refused() -> None:
    with pytest.raises(si.SynapseError, match=r"0\.weight.*in the model that ShortPath was given.*same model"):
        importance(mlp(), samples(), named=mlp().named_parameters())


@pytest.mark.parametrize("name", ["lr", "xi"])
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf"), "0.1", None])
def test_rate_and_damping_must_be_positive_numbers(name: str, value: Any) -> None:
    expected = ValueError if isinstance(value, float) else TypeError
    with pytest.raises(expected, match=f"{name} must be"):
        importance(mlp(), samples(), **{name: value})


def test_other_settings_do_not_load() -> None:
    state = consolidator(mlp(), lr=0.1).state_dict()
    with pytest.raises(si.SynapseError, match=r"'lr': 0\.1.*'lr': 0\.2"):
        consolidator(mlp(), lr=0.2).load_state_dict(state)
