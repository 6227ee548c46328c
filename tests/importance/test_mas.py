"""Memory aware synapses against plain loops over samples and closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from operations import Largest, Whole
from torch import Tensor, nn

import synaptic_intelligence as si

Data = list[tuple[Tensor, Tensor]]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)).double()


def samples(sizes: Iterable[int] = (7, 5, 1)) -> Data:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(size, 4, generator=generator, dtype=torch.float64), torch.zeros(size)) for size in sizes]


def importance(
    model: nn.Module, data: Any, *, chunk_size: int = 64, named: Iterable[tuple[str, Tensor]] | None = None
) -> dict[str, Tensor]:
    """Omega after one task of this data, as a user gets it."""
    named = list(model.named_parameters() if named is None else named)
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1)
    synapses = si.Consolidator(named, optimizer, si.MAS(model, chunk_size=chunk_size), c=1e-9)
    synapses.consolidate(data)
    synapses.detach()
    return dict(synapses.omega)


def plain_mas(model: nn.Module, data: Data) -> dict[str, Tensor]:
    """One backward pass for each sample, in eval mode; it shares no code with the library."""
    model.eval()
    named = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    count = 0
    for inputs, _ in data:
        for x in inputs:
            count += 1
            output = model(x[None])
            squared = sum(number**2 for number in output.flatten() if number > -torch.inf)
            gradients = torch.autograd.grad(squared, list(named.values()), allow_unused=True)
            for name, g in zip(named, gradients, strict=True):
                if g is not None:
                    total[name] += g.abs()
    return {name: t / count for name, t in total.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert list(found) == list(expected)
    for name, t in expected.items():
        assert float((found[name] - t).abs().max()) <= tolerance * float(t.abs().max()), name


@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_equals_plain_loops_for_every_chunk_size(chunk_size: int) -> None:
    model, data = mlp(), samples()
    assert_same(importance(model, data, chunk_size=chunk_size), plain_mas(model, data))


def test_by_hand() -> None:
    # f = 2 x, so d f^2 / d weight = 2 * 2 x * x: 4 for x = 1 and 36 for x = -3. The mean is 20.
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    data = [(torch.tensor([[1.0], [-3.0]], dtype=torch.float64), torch.zeros(2))]
    assert importance(model, data)["weight"].item() == 20


def test_is_the_mean_of_sizes_and_not_the_size_of_the_mean() -> None:
    # By the bias d f^2 / d bias = 2 f = 2 x, which is 2 and -2: the mean gradient would be zero.
    model = nn.Linear(1, 1).double()
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    data = [(torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.zeros(2))]
    assert importance(model, data)["bias"].item() == 2


def test_is_the_closed_form_of_a_linear_layer() -> None:
    model, data = nn.Linear(4, 3).double(), samples()
    x = torch.cat([inputs for inputs, _ in data])
    size = 2 * (x @ model.weight.detach().T + model.bias.detach()).abs()
    assert_same(importance(model, data), {"weight": size.T @ x.abs() / len(x), "bias": size.mean(dim=0)})


def test_the_division_into_batches_does_not_matter() -> None:
    model, (x, y) = mlp(), samples([13])[0]
    together = importance(model, [(x, y)])
    for sizes in ([1] * 13, [12, 1], [0, 6, 7]):
        assert_same(importance(model, zip(x.split(sizes), y.split(sizes), strict=True)), together)


def test_targets_are_not_used() -> None:
    model, data = mlp(), samples()
    found = importance(model, data)
    assert_same(importance(model, [(x, torch.full((len(x), 2), torch.nan)) for x, _ in data]), found, 0.0)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3), ()], ids=str)
def test_outputs_of_any_shape_count_alike(shape: tuple[int, ...]) -> None:
    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3 if shape else 1)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.body(x)
            return output.reshape(len(x), *shape)

    model, data = Shaped().double(), samples()
    flat = importance(model.body, data)
    assert_same(importance(model, data), {f"body.{name}": t for name, t in flat.items()})


class Masked(nn.Module):
    """Of five outputs, the last two belong to another head."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.mask = nn.Linear(4, 5), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.mask(self.body(x), torch.tensor([False, False, False, True, True]))


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(lambda logits, other: logits.masked_fill(other, -torch.inf), id="filling"),
        pytest.param(lambda logits, other: logits + torch.where(other, -torch.inf, 0.0), id="adding"),
    ],
)
def test_a_masked_head_has_no_importance_and_does_not_spoil_the_rest(mask: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, data = Masked(mask).double(), samples()
    found = importance(model, data)
    head = nn.Linear(4, 3).double()
    head.weight.data, head.bias.data = model.body.weight.data[:3], model.body.bias.data[:3]
    alone = plain_mas(head, data)
    assert_same({name: found[f"body.{name}"][:3] for name in alone}, alone)
    assert not bool(found["body.weight"][3:].any())
    assert not bool(found["body.bias"][3:].any())


class Branch(nn.Module):
    """Control flow that depends on the data, which vmap cannot run."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.body(x)
        return output if (self.body.weight.sum() + 0 * x.sum()).item() > 0 else 2 * output


@pytest.mark.parametrize("chunk_size", [1, 64])
def test_falls_back_to_one_sample_at_a_time_with_the_same_numbers(chunk_size: int) -> None:
    model, data = Branch().double(), samples()
    with pytest.warns(si.SynapseWarning, match=r"vmap cannot run this model.*MAS goes one sample at a time") as warned:
        found = importance(model, data, chunk_size=chunk_size)
    assert len(warned) == 1  # said once, not for each chunk
    assert_same(found, plain_mas(model, data))
    assert {name for name, t in found.items() if bool(t.any())} == {"body.weight", "body.bias"}


def test_a_filtered_model_gives_the_same_numbers_for_the_rest_under_other_names() -> None:
    model, data = mlp(), samples()
    whole = importance(model, data)
    body = [(name, p) for name, p in model.named_parameters() if not name.startswith("3.")]
    found = importance(model, data, named=[(f"encoder.{name}", p) for name, p in body])
    assert_same(found, {f"encoder.{name}": whole[name] for name, _ in body})


def test_an_output_whose_square_overflows_is_fine() -> None:
    # f = 300, whose square float16 does not know, but its gradient it does: 2 * 300 * 1.
    model = nn.Linear(1, 1, bias=False).half()
    nn.init.constant_(model.weight, 300.0)
    with pytest.warns(si.SynapseWarning, match="float16"):
        found = importance(model, [(torch.ones(1, 1, dtype=torch.float16), torch.zeros(1))])
    assert found["weight"].item() == 600


def test_no_more_gradients_than_a_chunk_are_held_at_once() -> None:
    model, chunk_size = Whole(), 4
    with Largest() as largest:
        importance(model, [(torch.randn(32, 40), torch.zeros(32))], chunk_size=chunk_size)
    assert largest.elements == chunk_size * model.weight.numel()


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.body(x), x

    with pytest.raises(ValueError, match="MAS needs a model that returns one tensor, not tuple"):
        importance(Pair().double(), samples())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_an_output_that_is_not_finite_is_refused(value: float) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.body(x) * value
            return output

    with pytest.raises(si.SynapseError, match="not finite"):
        importance(Broken().double(), samples())


def test_parameters_of_another_model_are_refused() -> None:
    with pytest.raises(si.SynapseError, match=r"0\.weight.*in the model that MAS was given.*same model"):
        importance(mlp(), samples(), named=mlp().named_parameters())


@pytest.mark.parametrize("chunk_size", [0, -1, 1.5, "8", None])
def test_a_chunk_size_that_is_no_positive_number_is_refused(chunk_size: Any) -> None:
    with pytest.raises(ValueError, match="chunk_size must be a positive whole number"):
        si.MAS(mlp(), chunk_size=chunk_size)
