"""What every importance estimator must do. A new one is added to ``ESTIMATORS`` by one line, and passes unchanged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synaptic_intelligence as si

C = 0.5


@final
@dataclass(frozen=True)
class Estimator:
    """How an estimator is made for a model, and what is true of it alone."""

    name: str
    make: Callable[[nn.Module], si.Importance]
    never_decreases: bool


ESTIMATORS = [
    Estimator("path-integral", lambda model: si.PathIntegral(xi=0.1), never_decreases=False),
    Estimator("fisher-exact", lambda model: si.Fisher(model, F.cross_entropy, kind="exact"), never_decreases=True),
    Estimator(
        "fisher-empirical",
        lambda model: si.Fisher(model, F.cross_entropy, kind="empirical", chunk_size=5),
        never_decreases=True,
    ),
    Estimator("mas", lambda model: si.MAS(model, chunk_size=5), never_decreases=True),
    Estimator(
        "short-path",
        lambda model: si.ShortPath(model, F.cross_entropy, lr=0.05, xi=0.01),
        never_decreases=True,  # gradient descent lowers the loss, to first order, wherever it goes
    ),
    Estimator("uniform", lambda model: si.Uniform(0.5), never_decreases=True),
]

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.name)


@final
class Spy:
    """An estimator in front of another: it keeps what went in and out, and fails when it is told to."""

    def __init__(self, inner: si.Importance) -> None:
        self.inner = inner
        self.name, self.needs_data, self.integrates_path = inner.name, inner.needs_data, inner.integrates_path
        self.spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
        self.end: si.TaskEnd | None = None
        self.result: dict[str, Tensor] = {}

    def settings(self) -> dict[str, float | str]:
        return self.inner.settings()

    def new_omega(self, end: si.TaskEnd) -> dict[str, Tensor]:
        self.end, self.result = end, self.inner.new_omega(end)
        return self.spoil(dict(self.result)) if self.spoil is not None else self.result


@final
class Bench:
    """A small model in training, with synapses on it. The same seed gives the same bench."""

    def __init__(
        self,
        estimator: Estimator,
        *,
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.3,
        unprotected: bool = False,
        frozen: bool = False,
    ) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(
            nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Dropout(dropout), nn.Linear(5, 3)
        ).to(dtype)
        first, second = self.model[:1].parameters(), self.model[1:].parameters()
        if frozen:
            self.parameter("4.weight").requires_grad_(False)
        rest: dict[str, Any] = {"params": list(second), **({"c": None} if unprotected else {})}
        self.optimizer = torch.optim.Adam([{"params": list(first)}, rest], lr=0.02)
        self.spy = Spy(estimator.make(self.model))
        self.synapses = si.Consolidator(self.model.named_parameters(), self.optimizer, self.spy, c=C)
        self.dtype = dtype

    def parameter(self, name: str) -> nn.Parameter:
        return dict(self.model.named_parameters())[name]

    def data(self, task: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(task)
        rule = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        inputs = [torch.randn(size, 4, generator=generator, dtype=torch.float64) for size in (8, 8, 3)]
        return [(x.to(self.dtype), (x @ rule).argmax(dim=1)) for x in inputs]

    def train(self, task: int, epochs: int = 3) -> None:
        torch.manual_seed(task)
        self.model.train()
        for _ in range(epochs):
            for x, y in self.data(task):
                self.optimizer.zero_grad()
                F.cross_entropy(self.model(x), y).backward()
                self.optimizer.step()

    def consolidate(self, task: int) -> None:
        self.synapses.consolidate(self.data(task) if self.spy.needs_data else None)

    def learn(self, task: int) -> None:
        self.train(task)
        self.consolidate(task)

    def outside(self) -> dict[str, object]:
        """All that consolidate must leave alone even when it succeeds, as bytes."""
        model = self.model
        return {
            "parameters": {name: bits(p) for name, p in model.named_parameters()},
            "gradients": {name: None if p.grad is None else bits(p.grad) for name, p in model.named_parameters()},
            "same gradients": {name: id(p.grad) for name, p in model.named_parameters()},
            "frozen": {name: p.requires_grad for name, p in model.named_parameters()},
            "buffers": {name: bits(buffer) for name, buffer in model.named_buffers()},
            "training": {name: module.training for name, module in model.named_modules()},
            "random": bits(torch.get_rng_state()),
            "optimizer": [bits(t) for slots in self.optimizer.state.values() for t in slots.values()],
        }

    def inside(self) -> dict[str, object]:
        """All that the synapses remember, as bytes."""
        synapses = self.synapses
        return {
            **{
                kind: {name: bits(t) for name, t in tensors.items()}
                for kind, tensors in (("omega", synapses.omega), ("anchor", synapses.anchor), ("path", synapses.path))
            },
            "tasks": synapses.tasks,
            "steps": synapses.state_dict()["steps"],
            "c": synapses.c,
        }


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().numpy().tobytes())


def copies(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


@each_estimator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_omega_is_finite_not_negative_and_fits_the_parameters(estimator: Estimator, dtype: torch.dtype) -> None:
    bench = Bench(estimator, dtype=dtype)
    for task in range(2):
        bench.learn(task)
        omega = bench.synapses.omega
        assert list(omega) == [name for name, _ in bench.model.named_parameters()]
        for name, p in bench.model.named_parameters():
            assert omega[name].shape == p.shape
            assert omega[name].dtype == dtype
            assert bool(omega[name].isfinite().all())
            assert bool((omega[name] >= 0).all())
        assert any(bool((t > 0).any()) for t in omega.values())


@each_estimator
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_omega_of_low_precision_parameters_is_float32(estimator: Estimator, dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.tensor([[0.5, -0.25], [1.0, 2.0]], dtype=dtype))
    model = nn.Linear(2, 2, bias=False)
    model.weight = p
    optimizer = torch.optim.SGD([p], lr=1e-3)
    with pytest.warns(si.SynapseWarning, match=str(dtype)):
        synapses = si.Consolidator(model.named_parameters(), optimizer, estimator.make(model), c=C)
    x, y = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=dtype), torch.tensor([0, 1])
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    synapses.consolidate([(x, y)] if synapses.importance.needs_data else None)
    assert synapses.omega["weight"].dtype == torch.float32
    assert bool((synapses.omega["weight"] > 0).any())


@each_estimator
def test_new_omega_is_made_of_new_tensors_and_changes_no_input(estimator: Estimator) -> None:
    bench = Bench(estimator)
    bench.learn(0)
    bench.train(1)
    synapses, parameters = bench.synapses, dict(bench.model.named_parameters())
    end = si.TaskEnd(parameters, synapses.anchor, synapses.path, copies(synapses.omega), bench.data(1))
    given = [t for tensors in (parameters, end.anchor, end.path, end.omega) for t in tensors.values()]
    before = [bits(t) for t in given]
    outside = bench.outside()

    with torch.no_grad():  # as the consolidator calls it
        omega = estimator.make(bench.model).new_omega(end)

    assert [bits(t) for t in given] == before
    assert bench.outside() == outside
    storages = {t.untyped_storage().data_ptr() for t in given}
    assert not storages & {t.untyped_storage().data_ptr() for t in omega.values()}
    assert len({t.untyped_storage().data_ptr() for t in omega.values()}) == len(omega)
    assert not any(t.requires_grad for t in omega.values())


@each_estimator
def test_omega_never_decreases_where_the_estimator_says_so(estimator: Estimator) -> None:
    bench = Bench(estimator)
    decreased = False
    for task in range(3):
        before = copies(bench.synapses.omega)
        bench.learn(task)
        decreased |= any(bool((t < before[name]).any()) for name, t in bench.synapses.omega.items())
    assert decreased is not estimator.never_decreases


@each_estimator
def test_a_second_task_is_added_to_the_first(estimator: Estimator) -> None:
    bench = Bench(estimator, dtype=torch.float64)
    bench.learn(0)
    first = copies(bench.synapses.omega)
    bench.train(1)
    anchor, path = copies(bench.synapses.anchor), copies(bench.synapses.path)
    bench.consolidate(1)
    parameters = dict(bench.model.named_parameters())
    zeros = {name: torch.zeros_like(t) for name, t in first.items()}
    with torch.no_grad():
        alone = estimator.make(bench.model).new_omega(si.TaskEnd(parameters, anchor, path, zeros, bench.data(1)))
    for name, both in bench.synapses.omega.items():
        gained = alone[name] > 0
        torch.testing.assert_close(both[gained], (first[name] + alone[name])[gained], rtol=1e-12, atol=0)
        assert bool((both[~gained] <= first[name][~gained]).all())
        assert bool(gained.any())


@each_estimator
def test_consolidating_moves_the_anchor_and_starts_a_new_path(estimator: Estimator) -> None:
    bench = Bench(estimator)
    bench.train(0)
    path = copies(bench.synapses.path)
    ended = bench.synapses.consolidate(bench.data(0) if bench.spy.needs_data else None)
    assert {name: bits(t) for name, t in ended.items()} == {name: bits(t) for name, t in path.items()}
    assert bool(path) is bench.spy.integrates_path
    for name, p in bench.model.named_parameters():
        assert bits(bench.synapses.anchor[name]) == bits(p)
    assert not any(bool(t.any()) for t in bench.synapses.path.values())
    assert bench.synapses.tasks == 1
    assert float(bench.synapses.penalty()) == 0


@each_estimator
def test_consolidate_leaves_model_optimizer_and_random_state_alone(estimator: Estimator) -> None:
    bench = Bench(estimator)
    bench.train(0)
    bench.model[2].eval()  # one module unlike the others
    outside = bench.outside()
    bench.consolidate(0)
    assert bench.outside() == outside


def no_number(omega: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.full_like(t, torch.nan) for name, t in omega.items()}


def one_missing(omega: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(omega.items())[1:])


def one_too_many(omega: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**omega, "stranger": torch.zeros(1)}


def other_shapes(omega: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.flatten()[:1] for name, t in omega.items()}


@each_estimator
@pytest.mark.parametrize("spoil", [no_number, one_missing, one_too_many, other_shapes])
def test_a_bad_omega_changes_nothing(
    estimator: Estimator, spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    bench, untroubled = Bench(estimator), Bench(estimator)
    for either in (untroubled, bench):
        either.learn(0)
        either.train(1)
    before = bench.outside(), bench.inside()
    bench.spy.spoil = spoil
    with pytest.raises(si.SynapseError, match="omega"):
        bench.consolidate(1)
    assert (bench.outside(), bench.inside()) == before
    bench.spy.spoil = None
    bench.consolidate(1)
    untroubled.consolidate(1)
    assert bench.inside() == untroubled.inside()


@each_estimator
def test_an_estimator_that_raises_changes_nothing(estimator: Estimator) -> None:
    def interrupt(omega: dict[str, Tensor]) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    bench = Bench(estimator)
    bench.learn(0)
    bench.train(1)
    before = bench.outside(), bench.inside()
    bench.spy.spoil = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.consolidate(1)
    assert (bench.outside(), bench.inside()) == before


@each_estimator
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_parameter_that_is_not_finite_changes_nothing(estimator: Estimator, value: float) -> None:
    bench = Bench(estimator)
    bench.learn(0)
    bench.train(1)
    bench.parameter("4.bias").data[1] = value
    before = bench.outside(), bench.inside()
    with pytest.raises(si.SynapseError, match=r"4\.bias"):
        bench.consolidate(1)
    assert (bench.outside(), bench.inside()) == before


@each_estimator
def test_data_is_required_or_refused(estimator: Estimator) -> None:
    bench = Bench(estimator)
    bench.train(0)
    before = bench.outside(), bench.inside()
    wrong = None if bench.spy.needs_data else bench.data(0)
    with pytest.raises(TypeError, match="data"):
        bench.synapses.consolidate(wrong)
    assert (bench.outside(), bench.inside()) == before


@each_estimator
def test_data_that_breaks_off_changes_nothing(estimator: Estimator) -> None:
    def breaks_off() -> Iterator[tuple[Tensor, Tensor]]:
        yield bench.data(0)[0]
        raise ConnectionError("the disk went away")

    bench = Bench(estimator)
    bench.train(0)
    before = bench.outside(), bench.inside()
    with pytest.raises(ConnectionError if bench.spy.needs_data else TypeError):
        bench.synapses.consolidate(breaks_off())
    assert (bench.outside(), bench.inside()) == before


@each_estimator
@pytest.mark.parametrize("steps", [0, 2], ids=["between-tasks", "in-mid-task"])
@pytest.mark.parametrize("how", ["state-dict", "file"])
def test_saved_synapses_go_on_as_if_never_saved(estimator: Estimator, steps: int, how: str, tmp_path: Path) -> None:
    bench, other = Bench(estimator), Bench(estimator)
    bench.learn(0)
    bench.train(1, epochs=steps)
    other.train(3)  # so that it is unlike the first
    other.model.load_state_dict(bench.model.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(bench.optimizer.state_dict()))  # torch would share its tensors
    if how == "file":
        bench.synapses.save(tmp_path / "importance.safetensors")
        other.synapses.load(tmp_path / "importance.safetensors")
    else:
        torch.save(bench.synapses.state_dict(), tmp_path / "state.pt")
        other.synapses.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.inside() == bench.inside()
    for either in (bench, other):
        either.learn(1)
        either.learn(2)
    assert other.inside() == bench.inside()


@each_estimator
def test_settings_are_json_and_name_the_estimator(estimator: Estimator) -> None:
    made = estimator.make(nn.Linear(1, 1))
    assert json.loads(json.dumps(made.settings(), allow_nan=False)) == made.settings()
    assert made.name.isidentifier()


@each_estimator
def test_a_parameter_that_is_frozen_all_along_has_no_importance(estimator: Estimator) -> None:
    bench = Bench(estimator, frozen=True)
    bench.learn(0)
    bench.learn(1)
    for name, omega in bench.synapses.omega.items():
        assert bool(omega.any()) is (name != "4.weight")


@each_estimator
def test_a_parameter_that_is_frozen_later_keeps_its_importance(estimator: Estimator) -> None:
    bench = Bench(estimator)
    bench.learn(0)
    frozen = bench.parameter("4.weight").requires_grad_(False)
    frozen.grad = None
    before = bits(bench.synapses.omega["4.weight"])
    bench.learn(1)
    assert bits(bench.synapses.omega["4.weight"]) == before


@each_estimator
def test_a_group_without_strength_has_no_synapses(estimator: Estimator) -> None:
    bench, whole = Bench(estimator, unprotected=True), Bench(estimator)
    for either in (bench, whole):
        either.learn(0)
    assert list(bench.synapses.omega) == ["0.weight", "0.bias"]
    for name, omega in bench.synapses.omega.items():  # the first task knows no pull, so the rest is the same
        torch.testing.assert_close(omega, whole.synapses.omega[name], rtol=1e-5, atol=1e-7)


@each_estimator
def test_float32_and_float64_give_the_same_numbers(estimator: Estimator) -> None:
    narrow = Bench(estimator, dropout=0.0)
    wide = Bench(estimator, dtype=torch.float64, dropout=0.0)
    for either in (narrow, wide):
        either.learn(0)
        either.learn(1)
    for name, omega in wide.synapses.omega.items():
        difference = float((narrow.synapses.omega[name].double() - omega).abs().max() / omega.abs().max())
        assert difference < 1e-3, name


@each_estimator
def test_consolidating_again_and_again_repeats_itself(estimator: Estimator) -> None:
    one, other = Bench(estimator), Bench(estimator)
    for either in (one, other):
        for task in range(2):
            either.learn(task)
    assert one.inside() == other.inside()
