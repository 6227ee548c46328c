"""When to consolidate: traces by hand, the paper's rule written out once more, and what a resumed trigger does."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import same
from stacks.ranks import Ranks
from torch import Tensor
from unannounced import STEPS, Stream, train_on_a_rank, watched

import synaptic_intelligence as si
from synaptic_intelligence.triggers import Every, Plateau, Trigger


def steps_of(trigger: Trigger, losses: list[float], start: int = 1) -> list[int]:
    """Return at which steps, counted from ``start``, a trigger fires."""
    fired = []
    for step, loss in enumerate(losses, start):
        if trigger.fires(loss):
            trigger.begin()
            fired.append(step)
    return fired


def paper_steps(losses: list[float], window: int, mean_below: float, std_below: float, peak_stds: float) -> list[int]:
    """The rule in the paper's words: both statistics lower than a threshold, and a peak since the last such plateau."""
    fired: list[int] = []
    old_mean = old_std = 0.0
    peak_seen = True
    for step in range(window, len(losses) + 1):
        inside = losses[step - window : step]
        mean = sum(inside) / window
        variance = sum((loss - mean) ** 2 for loss in inside) / window
        if mean > old_mean + peak_stds * old_std:
            peak_seen = True
        if peak_seen and mean < mean_below and variance < std_below**2:
            fired.append(step)
            old_mean, old_std, peak_seen = mean, variance**0.5, False
        elif not fired:
            peak_seen = True
    return fired


def walk(seed: int, length: int = 200) -> list[float]:
    """Losses of several tasks: a jump, a decay to a floor, noise, and sometimes a drift."""
    draw = np.random.default_rng(seed)
    losses: list[float] = []
    while len(losses) < length:
        steps, floor, jump = int(draw.integers(5, 60)), draw.uniform(0.0, 0.3), draw.uniform(0.0, 2.0)
        shape = jump * np.exp(-np.arange(steps) / draw.uniform(1.0, 15.0)) + floor
        drift = np.cumsum(draw.normal(0.0, draw.choice([0.0, 0.02]), steps))
        losses += [float(loss) for loss in np.abs(shape + drift + draw.normal(0.0, draw.uniform(0.0, 0.1), steps))]
    return losses[:length]


# Traces by hand.


def test_every_fires_after_so_many_steps_and_begins_anew() -> None:
    assert steps_of(Every(4), [0.0] * 13) == [4, 8, 12]
    assert steps_of(Every(1), [0.0] * 3) == [1, 2, 3]
    every = Every(2)
    assert [every.fires(None), every.fires(math.nan), every.fires(None)] == [False, True, True]  # until it begins
    every.begin()
    assert [every.fires(None), every.fires(None)] == [False, True]


def test_plateau_fires_until_it_begins_anew_and_awaits_a_peak_after_any_plateau() -> None:
    trigger = Plateau(window=2, mean_below=2.0, std_below=1.0)
    assert [trigger.fires(1.0) for _ in range(4)] == [False, True, True, True]
    trigger.begin()
    assert not trigger.fires(1.0)
    other = Plateau(window=2, mean_below=2.0, std_below=1.0)
    other.fires(5.0)
    other.begin()  # the user consolidated in the middle of nothing
    assert steps_of(other, [5.0, 1.0, 1.0, 1.0]) == [3]


def test_plateau_fires_once_at_the_first_window_that_is_low_and_steady() -> None:
    # Windows of 2 from the second loss on: means 3, 1.5, 1, 1, ...; deviations 1, 0.5, 0, 0, ...
    assert steps_of(Plateau(window=2, mean_below=2.0, std_below=0.4), [4.0, 2.0, 1.0, 1.0, 1.0, 1.0]) == [4]
    assert steps_of(Plateau(window=2, mean_below=2.0, std_below=0.6), [4.0, 2.0, 1.0, 1.0, 1.0, 1.0]) == [3]


def test_plateau_is_below_its_thresholds_and_not_at_them() -> None:
    low = [1.0, 3.0] * 3  # mean 2, deviation of the losses themselves 1 (of a sample: more)
    assert steps_of(Plateau(window=2, mean_below=2.0, std_below=1.5), low) == []
    assert steps_of(Plateau(window=2, mean_below=2.5, std_below=1.0), low) == []
    assert steps_of(Plateau(window=2, mean_below=math.nextafter(2, 3), std_below=math.nextafter(1, 2)), low) == [2]


def test_plateau_waits_for_a_full_window() -> None:
    trigger = Plateau(window=3, mean_below=1.0, std_below=1.0)
    assert [trigger.fires(0.5) for _ in range(3)] == [False, False, True]


def test_plateau_fires_again_only_after_a_peak() -> None:
    trigger = Plateau(window=2, mean_below=2.0, std_below=1.0)
    assert steps_of(trigger, [1.0, 1.5]) == [2]  # mean 1.25, deviation 0.25: a peak lies above 1.5
    assert steps_of(trigger, [1.5, 1.5, 0.5, 0.5, 1.0]) == []  # means 1.5 (not above), 1.5, 1, 0.5, 0.75
    # Means 3 (a peak), 5 (and no plateau), 3, 1: low and steady at the last.
    assert steps_of(trigger, [5.0, 5.0, 1.0, 1.0]) == [4]


def test_a_window_can_be_peak_and_plateau() -> None:
    trigger = Plateau(window=2, mean_below=2.0, std_below=1.0)
    assert steps_of(trigger, [1.0, 1.0, 1.25]) == [2, 3]  # 1.125 is above 1 + 0, and still low and steady


def test_peak_stds_says_how_far_the_mean_must_rise() -> None:
    losses = [1.0, 2.0, 2.0, 2.25, 2.5, 2.5]  # the plateau: 1.5 and 0.5; then 2, 2.125, 2.375, 2.5
    found = {n: steps_of(Plateau(window=2, mean_below=3.0, std_below=1.0, peak_stds=n), losses) for n in (1, 1.25, 2)}
    # A peak lies above 2, then (2.125, 0.125) above 2.25, then (2.375, 0.125) above 2.5; or above 2.125; or above 2.5.
    assert found == {1: [2, 4, 5], 1.25: [2, 5], 2: [2]}


def test_the_threshold_of_the_mean_may_be_below_zero() -> None:
    assert steps_of(Plateau(window=2, mean_below=-1.0, std_below=0.1), [0.0, 0.0, -2.0, -2.0]) == [4]


# The rule written out once more.


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    window=st.integers(2, 20),
    mean_below=st.floats(0.05, 0.6),
    std_below=st.floats(0.01, 0.3),
    peak_stds=st.floats(0.0, 4.0),
)
def test_plateau_is_the_rule_of_the_paper(
    seed: int, window: int, mean_below: float, std_below: float, peak_stds: float
) -> None:
    asked = {"mean_below": mean_below, "std_below": std_below, "peak_stds": peak_stds}
    losses = walk(seed)
    assert steps_of(Plateau(window=window, **asked), losses) == paper_steps(losses, window, **asked)


def test_these_walks_have_plateaus_and_peaks() -> None:
    counts = [len(steps_of(Plateau(window=5, mean_below=0.3, std_below=0.1), walk(seed))) for seed in range(50)]
    assert sum(counts) > 100
    assert min(counts) < max(counts)


# State.


def make_every() -> Trigger:
    return Every(7, decay=0.5)


def make_plateau() -> Trigger:
    return Plateau(window=6, mean_below=0.3, std_below=0.1, peak_stds=1.5)


@pytest.mark.parametrize("make", [make_every, make_plateau])
def test_a_trigger_goes_on_from_its_state_at_any_step(make: Callable[[], Trigger]) -> None:
    losses = [math.nan, *walk(3, 100), math.inf, math.inf, *walk(4, 100)]
    shapes = {key: (tensor.shape, tensor.dtype) for key, tensor in make().state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", si.SynapseWarning)
        whole = steps_of(make(), losses)
        assert len(whole) > 2
        for at in range(len(losses)):
            first, second = make(), make()
            before = steps_of(first, losses[:at])
            saved = first.state_dict()
            kept = copy.deepcopy(saved)
            after = steps_of(first, losses[at:], at + 1)
            assert {key: (t.shape, t.dtype) for key, t in saved.items()} == shapes
            assert same(saved, kept)  # its own tensors
            second.load_state_dict(kept)
            assert before + after == whole
            assert steps_of(second, losses[at:], at + 1) == after


@pytest.mark.parametrize("make", [make_every, make_plateau])
def test_state_holds_float64_and_int64_alone(make: Callable[[], Trigger]) -> None:
    assert {tensor.dtype for tensor in make().state_dict().values()} <= {torch.float64, torch.int64}


def with_changes(**changes: Any) -> Mapping[str, Tensor]:
    """The state of a plateau in its fourth step."""
    trigger = Plateau(window=3, mean_below=1.0, std_below=1.0)
    steps_of(trigger, [0.5, 0.5, 0.5, 0.25])
    return {**trigger.state_dict(), **changes}


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "has .*awaits_peak.*filled.*losses.*nonfinite.*plateau"),
        (with_changes(more=torch.zeros(1)), "not .*more"),
        (Every(3).state_dict(), "not .*taken"),
        (with_changes(losses=[0.5, 0.5, 0.5]), "'losses' .* is no tensor but list"),
        (with_changes(losses=float64(0.5, 0.5)), r"'losses' .* must be torch.float64 \[3\], not torch.float64 \[2\]"),
        (with_changes(losses=torch.ones(3)), "not torch.float32"),
        (with_changes(nonfinite=torch.tensor(1.0)), "'nonfinite' .* must be torch.int64"),
        (with_changes(settings=float64(3, 1, 1, 1, 0.5)), "with .*'decay': 0.5.*set another trigger after loading"),
        (with_changes(settings=float64(3, 2, 1, 1, 1)), "with .*'mean_below': 2.0"),
        (Plateau(window=4, mean_below=1.0, std_below=1.0).state_dict(), "with .*'window': 4.0"),
        (with_changes(losses=float64(0.5, INF, 0.5)), "damaged"),
        (with_changes(losses=float64(0.5, 0.5, NAN)), "damaged"),
        (with_changes(filled=torch.tensor(4)), "damaged"),
        (with_changes(filled=torch.tensor(-1)), "damaged"),
        (with_changes(filled=torch.tensor(2)), "damaged"),  # a plateau has fired, so the window is full
        (with_changes(filled=torch.tensor(2), awaits_peak=torch.tensor(0), plateau=float64(0, 0)), "damaged"),  # no 0
        (with_changes(awaits_peak=torch.tensor(2)), "damaged"),
        (with_changes(awaits_peak=torch.tensor(0)), "damaged"),  # and yet there is a plateau
        (with_changes(plateau=float64(0.5, NAN)), "damaged"),
        (with_changes(plateau=float64(0.5, -0.5)), "damaged"),
        (with_changes(plateau=float64(INF, 0.5)), "damaged"),
        (with_changes(nonfinite=torch.tensor(-1)), "damaged"),
    ],
)
def test_plateau_refuses_what_is_no_state_of_its_own(state: Mapping[str, Tensor], said: str) -> None:
    trigger = Plateau(window=3, mean_below=1.0, std_below=1.0)
    steps_of(trigger, [2.0, 2.0, 0.5])
    before = trigger.state_dict()
    with pytest.raises(si.SynapseError, match=said):
        trigger.load_state_dict(state)
    assert same(trigger.state_dict(), before)
    assert trigger.fires(0.25)


@pytest.mark.parametrize("taken", [torch.tensor(4), torch.tensor(-1), torch.tensor([1]), torch.tensor(1.0), 1])
def test_every_refuses_what_is_no_state_of_its_own(taken: Any) -> None:
    trigger = Every(3)
    trigger.fires(None)
    with pytest.raises(si.SynapseError, match="Every"):
        trigger.load_state_dict({**Every(3).state_dict(), "taken": taken})
    with pytest.raises(si.SynapseError, match=r"with .*'steps': 2\.0"):
        trigger.load_state_dict(Every(2).state_dict())
    assert trigger.state_dict()["taken"] == 1


# What is no loss.


def test_a_loss_that_is_not_finite_is_left_out_and_told_once_at_a_stretch() -> None:
    losses = [2.0, 0.5, 0.25, 0.5]
    trigger = Plateau(window=3, mean_below=1.0, std_below=1.0)
    assert steps_of(trigger, losses[:3]) == [3]
    trigger = Plateau(window=3, mean_below=1.0, std_below=1.0)
    told = []
    for loss in (2.0, NAN, 0.5, INF, -INF, NAN, 0.25):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fired = trigger.fires(loss)
        told.append([str(warning.message).partition(":")[0] for warning in caught])
        assert fired == (loss == 0.25)
    assert told == [[], ["the loss is nan"], [], ["the loss is inf"], [], [], []]


def test_where_warnings_are_errors_every_loss_that_is_not_finite_raises() -> None:
    trigger = Plateau(window=2, mean_below=1.0, std_below=1.0)
    for _ in range(2):
        with pytest.raises(si.SynapseWarning, match="the loss is nan"):
            trigger.fires(NAN)
    assert steps_of(trigger, [0.5, 0.5]) == [2]


def test_losses_at_the_limit_of_what_a_float_holds_are_no_plateau() -> None:
    most = 1.7e308
    trigger = Plateau(window=3, mean_below=1.0, std_below=1.0)
    assert steps_of(trigger, [0.5] * 3 + [most, -most, most, most, most, -most] + [0.5] * 4) == [3, 12]


@pytest.mark.parametrize("loss", [None, True, "0.5", torch.tensor(0.5)])
def test_plateau_takes_numbers_alone(loss: Any) -> None:
    with pytest.raises(TypeError, match="needs the loss of every step, as a number, not"):
        Plateau(window=2, mean_below=1.0, std_below=1.0).fires(loss)


def test_numbers_of_numpy_are_numbers() -> None:
    trigger = Plateau(window=np.int64(2), mean_below=np.float32(1), std_below=np.float64(1))  # type: ignore[arg-type]
    assert trigger.settings() == {"window": 2, "mean_below": 1.0, "std_below": 1.0, "peak_stds": 1.0, "decay": 1.0}
    assert [trigger.fires(np.float32(0.5)) for _ in range(2)] == [False, True]  # type: ignore[arg-type]


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"window": 1}, ValueError),
        ({"window": 0}, ValueError),
        ({"window": 2.5}, ValueError),
        ({"window": "5"}, TypeError),
        ({"window": True}, TypeError),
        ({"mean_below": NAN}, ValueError),
        ({"mean_below": INF}, ValueError),
        ({"mean_below": None}, TypeError),
        ({"mean_below": True}, TypeError),
        ({"std_below": 0.0}, ValueError),
        ({"std_below": -0.1}, ValueError),
        ({"std_below": INF}, ValueError),
        ({"std_below": "small"}, TypeError),
        ({"peak_stds": -1.0}, ValueError),
        ({"peak_stds": NAN}, ValueError),
        ({"decay": 0.0}, ValueError),
        ({"decay": 1.01}, ValueError),
        ({"decay": None}, TypeError),
    ],
)
def test_plateau_names_the_argument_that_is_wrong(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{next(iter(arguments))} must be"):
        Plateau(**{"window": 5, "mean_below": 0.2, "std_below": 0.1, **arguments})


@pytest.mark.parametrize(
    ("steps", "error"),
    [(0, ValueError), (-3, ValueError), (2.0, ValueError), (1.5, ValueError), (True, TypeError), ("7", TypeError)],
)
def test_every_names_what_is_wrong(steps: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="steps must be"):
        Every(steps)
    with pytest.raises(ValueError, match="decay must be"):
        Every(3, decay=-0.5)


def test_settings_tell_triggers_apart() -> None:
    assert Every(3, decay=0.5).settings() == {"steps": 3, "decay": 0.5}
    assert repr(Every(3)) == "Every(3, decay=1.0)"
    plateau = Plateau(window=5, mean_below=0.2, std_below=0.1, decay=0.9)
    assert repr(plateau) == "Plateau(window=5, mean_below=0.2, std_below=0.1, peak_stds=1.0, decay=0.9)"
    assert (plateau.needs_loss, Every.needs_loss) == (True, False)


# With synapses: two tasks that nobody announces.


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
def test_plateau_consolidates_once_in_each_task_and_holds_the_first(inside: bool) -> None:
    stream = Stream(watched(), inside=inside).train(1, 2 * STEPS)
    assert stream.consolidated == paper_steps(stream.losses, 5, 0.1, 0.02, 1.0)
    first, second = stream.consolidated
    assert max(stream.losses[first - 5 : first]) < 0.15 < stream.losses[0]  # it was learnt by then
    assert STEPS < second < STEPS + 20
    without = Stream(None, c=0.0, inside=inside).train(1, 2 * STEPS)
    assert stream.loss_on(0) < without.loss_on(0) / 2
    assert stream.loss_on(1) < 0.05


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
@pytest.mark.parametrize("decay", [1.0, 0.25])
def test_a_trigger_does_what_consolidate_does_at_the_same_steps(inside: bool, decay: float) -> None:
    trigger = Every(25, decay=decay)
    watching = Stream(trigger, inside=inside).train(1, 2 * STEPS)
    assert watching.consolidated == [25, 50, 75, 100]
    told = Stream(None, inside=inside).train(1, 2 * STEPS, told=watching.consolidated, decay=decay)
    assert same(watching.state(), told.state())
    if decay < 1:
        kept = Stream(None, inside=inside).train(1, 2 * STEPS, told=watching.consolidated)
        assert not same(watching.state(), kept.state())


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
@pytest.mark.parametrize("at", [3, 40, STEPS + 3])
def test_a_run_goes_on_from_its_checkpoint_with_its_trigger(inside: bool, at: int, tmp_path: Path) -> None:
    whole = Stream(watched(), inside=inside).train(1, 2 * STEPS)
    begun = Stream(watched(), inside=inside).train(1, at)
    checkpoint = {"model": begun.model.state_dict(), "optimizer": begun.optimizer.state_dict()}
    if not inside:
        checkpoint["synapses"] = begun.synapses.state_dict()
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt")
    resumed = Stream(watched(), inside=inside)
    resumed.model.load_state_dict(loaded["model"])
    resumed.optimizer.load_state_dict(loaded["optimizer"])
    if not inside:
        resumed.synapses.load_state_dict(loaded["synapses"])
    resumed.train(at + 1, 2 * STEPS)
    assert begun.consolidated + resumed.consolidated == whole.consolidated
    assert same(resumed.state(), whole.state())


def test_two_processes_decide_alike_by_their_mean_loss(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    try:
        (first, first_losses, first_state), (second, second_losses, second_state) = ranks.run(train_on_a_rank)
    finally:
        ranks.close()
    mean = [(a + b) / 2 for a, b in zip(first_losses, second_losses, strict=True)]
    assert first == second == paper_steps(mean, 5, 0.1, 0.02, 1.0)
    assert len(first) == 2
    assert same(first_state, second_state)
    alone = [paper_steps(losses, 5, 0.1, 0.02, 1.0) for losses in (first_losses, second_losses)]
    assert alone[0] != alone[1]  # each by its own loss, they would have gone their own ways
