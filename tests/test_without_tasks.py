"""Consolidation that nobody announces, decay, and a bootstrap before the first step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import NaiveSynapses, same, small_model, task_batches
from torch import Tensor

import synaptic_intelligence as si

C, XI = 0.5, 0.05


def around(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, si.Consolidator]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    return optimizer, si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)


def inside(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, si.Consolidator]:
    optimizer = si.optim.Adam(model.named_parameters(), lr=0.02, c=C, xi=XI)
    return optimizer, optimizer.synapses


Make = Callable[[torch.nn.Module], tuple[torch.optim.Optimizer, si.Consolidator]]
both = pytest.mark.parametrize("make", [around, inside])


def stream(steps: int = 6) -> list[tuple[Tensor, Tensor]]:
    return [batch for task in range(3) for batch in task_batches(task, steps)]


def learn(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


def state_of(synapses: si.Consolidator) -> dict[str, Mapping[str, Tensor]]:
    return {kind: dict(getattr(synapses, kind)) for kind in ("path", "omega", "anchor")}


@both
def test_a_trigger_consolidates_as_the_user_would(make: Make) -> None:
    told, triggered = small_model(), small_model()
    (optimizer, synapses), (other, watched) = make(told), make(triggered)
    watched.trigger = si.triggers.Every(5)
    for step, batch in enumerate(stream(), 1):
        learn(told, optimizer, batch)
        if step % 5 == 0:
            synapses.consolidate()
        assert watched.observe(learn(triggered, other, batch)) == (step % 5 == 0)
    assert watched.tasks == synapses.tasks == 3
    assert same(state_of(synapses), state_of(watched))
    assert same(told.state_dict(), triggered.state_dict())


@both
def test_decay_multiplies_what_was_there_before_the_task_is_added(make: Make) -> None:
    model, naive_model = small_model(), small_model()
    optimizer, synapses = make(model)
    naive = NaiveSynapses(naive_model, C, XI)
    naive_optimizer = torch.optim.Adam(naive_model.parameters(), lr=0.02)
    for task in range(3):
        for x, y in task_batches(task, 6):
            learn(model, optimizer, (x, y))
            naive.step(naive_optimizer, lambda x=x, y=y: F.cross_entropy(naive_model(x), y))  # type: ignore[misc]
        synapses.consolidate(decay=0.3)
        naive.omega = {name: 0.3 * omega for name, omega in naive.omega.items()}
        naive.consolidate()
    for name, omega in naive.omega.items():
        assert float((synapses.omega[name] - omega).abs().max()) <= 1e-12 * float(omega.abs().max())


@both
def test_a_decay_that_is_none_is_refused_and_nothing_has_changed(make: Make) -> None:
    model = small_model()
    optimizer, synapses = make(model)
    learn(model, optimizer, stream()[0])
    before = copy.deepcopy(synapses.state_dict())
    for decay in (0.0, 1.5, -1.0, float("nan")):
        with pytest.raises(ValueError, match="decay must be"):
            synapses.consolidate(decay=decay)
    assert same(before, synapses.state_dict())


@both
@pytest.mark.parametrize("stop", [1, 7, 8, 13])
def test_a_stopped_stream_goes_on_to_the_same_bits(make: Make, stop: int) -> None:
    def begin() -> tuple[Any, Any, si.Consolidator]:
        model = small_model()
        optimizer, synapses = make(model)
        synapses.trigger = si.triggers.Every(4, decay=0.5)
        return model, optimizer, synapses

    def go_on(model: Any, optimizer: Any, synapses: si.Consolidator, batches: list[Any]) -> list[bool]:
        return [synapses.observe(learn(model, optimizer, batch)) for batch in batches]

    whole, stopped = begin(), begin()
    fired = go_on(*whole, stream())
    first = go_on(*stopped, stream()[:stop])
    saved = copy.deepcopy([part.state_dict() for part in stopped])
    resumed = begin()
    for part, state in zip(resumed, saved, strict=True):
        if part is not resumed[2] or make is around:  # inside, the optimizer's state holds all
            part.load_state_dict(state)
    assert first + go_on(*resumed, stream()[stop:]) == fired
    assert same(state_of(whole[2]), state_of(resumed[2]))
    assert same(whole[0].state_dict(), resumed[0].state_dict())


def test_a_state_that_does_not_fit_leaves_the_trigger_as_it_was() -> None:
    _, synapses = around(small_model())
    synapses.trigger = si.triggers.Every(4)
    synapses.trigger.fires(None)
    before = copy.deepcopy(synapses.state_dict())
    later = copy.deepcopy(before)
    synapses.trigger.fires(None)
    later["trigger"] = copy.deepcopy(synapses.state_dict()["trigger"])
    later["tasks"] = -1
    synapses.load_state_dict(before)
    with pytest.raises(si.SynapseError, match="tasks=-1"):
        synapses.load_state_dict(later)
    assert same(before, synapses.state_dict())


def test_a_trigger_in_the_state_alone_or_here_alone_is_told_of() -> None:
    _, with_trigger = around(small_model())
    _, without = around(small_model())
    with_trigger.trigger = si.triggers.Every(4)
    with pytest.warns(si.SynapseWarning, match="set synapses.trigger before"):
        without.load_state_dict(with_trigger.state_dict())
    with pytest.warns(si.SynapseWarning, match="none of a trigger"):
        with_trigger.load_state_dict(without.state_dict())


def test_synapses_that_move_inside_an_optimizer_take_their_trigger_with_them() -> None:
    model = small_model()
    optimizer, synapses = around(model)
    synapses.trigger = si.triggers.Every(2)
    assert not synapses.observe(learn(model, optimizer, stream()[0]))
    moved = si.optim.Adam(model.named_parameters(), lr=0.02, c=C, xi=XI, synapses=synapses)
    assert moved.synapses.observe(learn(model, moved, stream()[1]))


@both
def test_a_trigger_that_fires_where_no_step_was_taken_ends_no_task(make: Make) -> None:
    model = small_model()
    optimizer, synapses = make(model)
    synapses.trigger = si.triggers.Every(1)
    assert not synapses.observe(0.5)
    assert synapses.observe(learn(model, optimizer, stream()[0]))
    assert not synapses.observe(0.5)
    assert synapses.tasks == 1


@both
def test_a_trigger_hears_of_each_step_once_and_of_the_users_own_consolidations(make: Make) -> None:
    model = small_model()
    optimizer, synapses = make(model)
    synapses.trigger = si.triggers.Every(3)
    fired = []
    for step, batch in enumerate(stream()[:10], 1):
        loss = learn(model, optimizer, batch)
        fired.append(synapses.observe(loss))
        assert not synapses.observe(loss)  # of the same step, as with micro-batches
        if step == 5:
            synapses.consolidate()  # by the user
    assert [step for step, yes in enumerate(fired, 1) if yes] == [3, 8]


def test_a_trigger_fires_again_where_the_consolidation_was_refused() -> None:
    model = small_model()
    optimizer, synapses = around(model)
    synapses.trigger = si.triggers.Every(2)
    parameter = next(model.parameters())
    for step, batch in enumerate(stream()[:3], 1):
        loss = learn(model, optimizer, batch)
        kept = parameter.detach().clone()
        if step == 2:
            with torch.no_grad():
                parameter.view(-1)[0] = torch.nan
            with pytest.warns(si.SynapseWarning, match="changed"), pytest.raises(si.SynapseError, match="not finite"):
                synapses.observe(loss)
            with torch.no_grad():
                parameter.copy_(kept)
        else:
            assert synapses.observe(loss) == (step == 3)


def test_the_decay_of_a_coarse_omega_is_one_that_it_can_follow() -> None:
    def faded(decay: float, dtype: torch.dtype | None) -> float:
        p = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([p], lr=0.1)
        synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1e-9, xi=0.1, omega_dtype=dtype)
        for task in range(60):
            for _ in range(3):
                optimizer.zero_grad()
                ((p - 1).square() if task == 0 else 0 * p).sum().backward()
                optimizer.step()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", si.SynapseWarning)  # nothing moves
                synapses.consolidate(decay=decay)
        return synapses.omega["w"].item()

    assert faded(0.9, torch.bfloat16) == pytest.approx(faded(0.9, None), rel=0.2)
    assert faded(1 - 2**-7, torch.bfloat16) < 0.9 * faded(1.0, torch.bfloat16)
    with pytest.raises(ValueError, match="rounds away"):
        faded(0.995, torch.bfloat16)


def test_synapses_that_are_paused_are_not_taken_over() -> None:
    model = small_model()
    _, synapses = around(model)
    with synapses.paused(), pytest.raises(si.SynapseError, match="are paused"):
        si.optim.Adam(model.named_parameters(), lr=0.02, c=C, xi=XI, synapses=synapses)


def test_what_is_no_trigger_is_refused() -> None:
    _, synapses = around(small_model())
    with pytest.raises(TypeError, match="'often' has no fires"):
        synapses.trigger = "often"  # type: ignore[assignment]


def test_losses_of_numpy_are_numbers() -> None:
    _, synapses = around(small_model())
    assert not synapses.observe(np.float32(0.5))  # type: ignore[arg-type]
    assert synapses.diagnose().loss == 0.5
    assert synapses.diagnose(np.float64(0.25)).loss == 0.25


def test_nothing_is_observed_while_paused() -> None:
    _, synapses = around(small_model())
    synapses.trigger = si.triggers.Every(1)
    with synapses.paused():
        assert not synapses.observe(0.5)
    assert synapses.tasks == 0


def test_an_estimator_that_needs_data_takes_no_trigger() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fisher = si.Fisher(model, F.cross_entropy, kind="exact")
    synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=1.0)
    with pytest.raises(TypeError, match="a trigger has no data"):
        synapses.trigger = si.triggers.Every(1)


@pytest.mark.parametrize(
    ("loss", "error"), [(torch.ones(2), ValueError), ("low", TypeError), (None, TypeError), (True, TypeError)]
)
def test_a_loss_that_is_no_number_is_refused(loss: Any, error: type[Exception]) -> None:
    _, synapses = around(small_model())
    with pytest.raises(error, match="loss must"):
        synapses.observe(loss)


# Weights that were trained without synapses.


@both
def test_bootstrap_sets_omega_and_anchor_and_begins_the_second_task(make: Make) -> None:
    model = small_model()
    optimizer, synapses = make(model)
    data = task_batches(0, 4)
    synapses.bootstrap(si.Fisher(model, F.cross_entropy, kind="exact"), data, weight=0.5)
    other = si.Consolidator(
        (pretrained := small_model()).named_parameters(),
        torch.optim.SGD(pretrained.parameters(), lr=0.1),
        si.Fisher(pretrained, F.cross_entropy, kind="exact"),
        c=C,
    )
    other.consolidate(data)
    assert same({n: 0.5 * t for n, t in other.omega.items()}, dict(synapses.omega))
    assert same(dict(synapses.anchor), {n: p.detach() for n, p in model.named_parameters()})
    assert synapses.tasks == 1
    before = copy.deepcopy(dict(synapses.omega))
    for batch in task_batches(1, 6):
        learn(model, optimizer, batch)
    assert float(synapses.penalty()) > 0
    path = synapses.consolidate()  # the path integral adds to it
    for name, omega in synapses.omega.items():
        assert bool((omega[path[name] > 0] > before[name][path[name] > 0]).all())


@both
def test_bootstrap_goes_through_state_and_file(make: Make, tmp_path: Any) -> None:
    model = small_model()
    _, synapses = make(model)
    synapses.bootstrap(si.Uniform(2.0))
    synapses.save(tmp_path / "a.safetensors")
    _, again = make(small_model())
    again.load(tmp_path / "a.safetensors")
    assert same(dict(again.omega), {n: torch.full_like(p, 2.0) for n, p in model.named_parameters()})


@both
def test_without_an_estimator_bootstrap_is_uniform_and_says_so(make: Make) -> None:
    _, synapses = make(small_model())
    with pytest.warns(si.SynapseWarning, match="an anchor, not an importance"):
        synapses.bootstrap()
    assert all(bool((omega == 1).all()) for omega in synapses.omega.values())


def test_bootstrap_is_refused_where_something_was_learnt() -> None:
    model = small_model()
    optimizer, synapses = around(model)
    learn(model, optimizer, stream()[0])
    before = copy.deepcopy(synapses.state_dict())
    with pytest.raises(si.SynapseError, match="before the first step"):
        synapses.bootstrap(si.Uniform())
    assert same(before, synapses.state_dict())
    synapses.consolidate()
    with pytest.raises(si.SynapseError, match="before the first step"):
        synapses.bootstrap(si.Uniform())


def test_bootstrap_of_wrong_arguments() -> None:
    _, synapses = around(small_model())
    before = copy.deepcopy(synapses.state_dict())
    with pytest.raises(TypeError, match="takes no data"):
        synapses.bootstrap(si.Uniform(), task_batches(0, 1))
    with pytest.raises(TypeError, match="name what estimates"):
        synapses.bootstrap(data=task_batches(0, 1))
    with pytest.raises(TypeError, match="needs batches"):
        synapses.bootstrap(si.Fisher(small_model(), F.cross_entropy, kind="exact"))
    with pytest.raises(ValueError, match="use ShortPath"):
        synapses.bootstrap(si.PathIntegral(0.1))
    with pytest.raises(ValueError, match="weight must be"):
        synapses.bootstrap(si.Uniform(), weight=0.0)
    assert same(before, synapses.state_dict())


def test_bootstrap_of_weights_that_are_not_finite_changes_nothing() -> None:
    model = small_model()
    _, synapses = around(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    before = copy.deepcopy(synapses.state_dict())
    with pytest.raises(si.SynapseError, match="not finite"):
        synapses.bootstrap(si.Uniform())
    assert same({**before, "anchor": {}}, {**synapses.state_dict(), "anchor": {}})  # the anchor follows the weights


class Zero:
    """An estimator that finds nothing, or what cannot be."""

    name, needs_data, integrates_path = "zero", False, False

    def __init__(self, value: float = 0.0, of: str = "") -> None:
        self.value, self.of = value, of

    def settings(self) -> dict[str, float | str]:
        return {}

    def new_omega(self, end: si.TaskEnd) -> dict[str, Tensor]:
        return {n: torch.full_like(o, self.value if n.startswith(self.of) else 1.0) for n, o in end.omega.items()}


def test_a_bootstrap_that_would_hold_nothing_is_refused() -> None:
    _, synapses = around(small_model())
    before = copy.deepcopy(synapses.state_dict())
    with pytest.raises(si.SynapseError, match="nothing would be held"):
        synapses.bootstrap(Zero())
    assert same(before, synapses.state_dict())
    with pytest.warns(si.SynapseWarning, match=r"nothing important in \['3.weight', '3.bias'\]"):
        synapses.bootstrap(Zero(of="3."))


def test_an_omega_below_zero_is_refused() -> None:
    _, synapses = around(small_model())
    with pytest.raises(si.SynapseError, match=r"below zero for .*0\.weight"):
        synapses.bootstrap(Zero(-1.0))
    assert synapses.tasks == 0


@both
def test_the_origin_of_importance_is_kept_and_told(make: Make, tmp_path: Any) -> None:
    optimizer, synapses = make(small_model())
    synapses.bootstrap(si.Uniform(2.0), weight=3.0)
    synapses.save(tmp_path / "a.safetensors")
    told = "uniform, value = 2.0, weight = 3"
    assert si.inspect_importance(tmp_path / "a.safetensors").origin == told
    other, again = make(small_model())
    (other if make is inside else again).load_state_dict((optimizer if make is inside else synapses).state_dict())
    assert again.state_dict()["origin"] == told
    _, plain = make(small_model())
    plain.save(tmp_path / "b.safetensors")
    with pytest.raises(si.SynapseError, match="weigh them with c="):
        si.merge_importance([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path / "c.safetensors")


def test_bootstrap_takes_the_own_estimator_where_it_takes_data() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fisher = si.Fisher(model, F.cross_entropy, kind="exact")
    synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=1e-3)
    synapses.bootstrap(data=task_batches(0, 1))
    assert synapses.state_dict()["origin"].startswith("fisher")
    with pytest.raises(TypeError, match="the first is an estimator, not list"):
        around(small_model())[1].bootstrap(task_batches(0, 1))  # type: ignore[arg-type]


def test_a_bootstrap_whose_warning_is_an_error_leaves_no_origin() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=100.0, xi=XI)
    before = copy.deepcopy(synapses.state_dict())
    with pytest.raises(si.SynapseWarning, match="swing ever wider"):
        synapses.bootstrap(si.Uniform())
    assert same(before, synapses.state_dict())
    assert before["origin"] == ""


def test_a_trigger_hears_of_the_first_step_after_a_file_was_loaded(tmp_path: Path) -> None:
    model = small_model()
    optimizer, synapses = around(model)
    learn(model, optimizer, task_batches(0, 1)[0])
    synapses.consolidate()
    synapses.save(tmp_path / "a.safetensors")
    batches = task_batches(1, 4)
    synapses.observe(learn(model, optimizer, batches[0]))
    synapses.trigger = si.triggers.Every(3)
    synapses.load(tmp_path / "a.safetensors")
    assert [synapses.observe(learn(model, optimizer, batch)) for batch in batches[1:]] == [False, False, True]
