"""Synapses in a loop of Accelerate against the plain loop."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from oracle import small_model
from stacks.accelerated import ALL, Loop, When, accelerator, save_and_load_shards, train, train_as_rank
from stacks.example import first_task_accuracies, run_example
from stacks.plain import (
    RATE,
    STEPS,
    TASKS,
    XI,
    C,
    Outcome,
    adam,
    assert_same,
    batches,
    outcome_of,
    synapses_of,
    train_plainly,
)
from stacks.ranks import Ranks
from torch import nn

import synaptic_intelligence as si
from synaptic_intelligence.integrations import accelerate as integration
from synaptic_intelligence.integrations.accelerate import register_synapses

pytestmark = pytest.mark.stack("Accelerate")


@pytest.fixture(autouse=True, scope="module")
def _leave_no_state() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


# The same numbers.


@pytest.mark.parametrize("when", ["before", "after"])
def test_before_and_after_prepare_bit_for_bit(when: When) -> None:
    """Synapses that are made of model and optimizer as they were, or as ``prepare`` gave them."""
    assert_same(train(Loop(when))[0], train_plainly())


@pytest.mark.parametrize(("accumulate", "clip"), [(3, None), (1, 0.05), (3, 0.05)])
def test_accumulation_and_clipping_bit_for_bit(accumulate: int, clip: float | None) -> None:
    """``accelerator.accumulate`` and ``clip_grad_norm_``; the steps that are left out while accumulating are none."""
    found, steps = train(Loop(accumulate=accumulate, clip=clip))
    assert steps == STEPS // accumulate
    assert_same(found, train_plainly(accumulate=accumulate, clip=clip))


def test_bf16_mixed_precision_bit_for_bit() -> None:
    """``mixed_precision="bf16"`` against the plain loop with the model under autocast."""
    model = small_model(torch.float32)
    optimizer = adam(model.parameters())
    synapses = synapses_of(model, optimizer)
    for task in range(TASKS):
        for x, y in batches(task):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            F.cross_entropy(logits.float(), y).backward()
            optimizer.step()
        if task + 1 < TASKS:
            synapses.consolidate()
    assert_same(train(Loop(precision="bf16"))[0], outcome_of(model, synapses))


def test_a_fresh_optimizer_for_each_task_bit_for_bit() -> None:
    """``synapses.attach(optimizer.optimizer)`` after ``prepare``."""
    here, model, plain = accelerator(), small_model(torch.float32), small_model(torch.float32)
    model, optimizer = here.prepare(model, adam(model.parameters()))
    synapses = register_synapses(here, model, optimizer, c=C, xi=XI)
    plain_synapses = synapses_of(plain, adam(plain.parameters()))
    for task in range(TASKS):
        optimizer = here.prepare(adam(model.parameters()))
        synapses.attach(optimizer.optimizer)
        plain_synapses.attach(plain_optimizer := adam(plain.parameters()))
        for x, y in batches(task):
            optimizer.zero_grad()
            here.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            plain_optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            plain_optimizer.step()
        if task + 1 < TASKS:
            synapses.consolidate()
            plain_synapses.consolidate()
    assert_same(outcome_of(model, synapses), outcome_of(plain, plain_synapses))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stop", [5, STEPS, STEPS + 7])
def test_resuming_in_the_middle_of_a_task_bit_for_bit(when: When, stop: int, tmp_path: Path) -> None:
    """``save_state`` in the first or the second task, or between them, and ``load_state`` in fresh objects."""
    train(Loop(when, last=stop, save=tmp_path))
    assert_same(train(Loop(when, first=stop, load=tmp_path))[0], train_plainly())


@pytest.mark.parametrize("when", ["before", "after"])
def test_two_ranks_equal_one_process_within_1e_12(two_ranks: Ranks, when: When, tmp_path: Path) -> None:
    """DDP by ``prepare``: each rank has half of each batch; saved in the second task and resumed."""
    stop = STEPS + 7
    two_ranks.run(train_as_rank, Loop(when, torch.float64, last=stop, save=tmp_path))
    one, other = two_ranks.run(train_as_rank, Loop(when, torch.float64, first=stop, load=tmp_path))
    assert_same(one, other)
    assert_same(one, train_plainly(dtype=torch.float64), weights=1e-12, importance=1e-12)


def test_sharded_synapses_are_saved_whole_bit_for_bit(two_ranks: Ranks, tmp_path: Path) -> None:
    """Accelerate saves what the first rank has: of a model that FSDP2 shards, each rank gets its own part back."""
    for saved, loaded in two_ranks.run(save_and_load_shards, tmp_path):
        assert_same(loaded, saved)


def train_inside(first: int, last: int, folder: Path | None = None) -> Outcome:
    """Train with synapses inside the optimizer; with Accelerate, if there is a folder for its state."""
    model = small_model(torch.float32)
    inside = optimizer = si.optim.Adam(model.named_parameters(), lr=RATE, c=C, xi=XI)
    if folder is not None:
        here = accelerator()
        model, optimizer = here.prepare(model, inside)
        if first:
            here.load_state(str(folder))
    for number in range(first, last):
        task, step = divmod(number, STEPS)
        x, y = batches(task)[step]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if step + 1 == STEPS and task + 1 < TASKS:
            inside.consolidate()
    if folder is not None:
        here.save_state(str(folder))
    return outcome_of(model, inside.synapses)


@pytest.mark.parametrize("stop", [5, STEPS + 7])
def test_synapses_inside_the_optimizer_bit_for_bit(stop: int, tmp_path: Path) -> None:
    """``si.optim.Adam`` through ``prepare``, saved and resumed in the middle of a task, against a loop of its own."""
    train_inside(0, stop, tmp_path)
    assert_same(train_inside(stop, ALL, tmp_path), train_inside(0, ALL))


# What is refused.


def test_the_prepared_optimizer_is_refused_where_the_one_inside_is_meant() -> None:
    """Without the integration, ``optimizer.optimizer`` is the one that has step hooks; the error says so."""
    here, model = accelerator(), small_model(torch.float32)
    model, optimizer = here.prepare(model, adam(model.parameters()))
    with pytest.raises(TypeError, match="pass the one inside it"):
        si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    synapses = register_synapses(here, model, optimizer, c=C, xi=XI)
    with pytest.raises(TypeError, match="pass the one inside it"):
        synapses.attach(optimizer)


@pytest.mark.parametrize("kind", [DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM])
def test_deepspeed_and_megatron_are_refused(kind: DistributedType, monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep gradients from the hooks of the optimizer."""
    here, model = accelerator(), small_model(torch.float32)
    monkeypatch.setitem(AcceleratorState._shared_state, "distributed_type", kind)
    with pytest.raises(si.SynapseError, match="use FSDP2"):
        register_synapses(here, model, adam(model.parameters()), c=C, xi=XI)


def test_both_or_neither_of_xi_and_importance_are_refused() -> None:
    """Which of them would count is not guessed."""
    here, model = accelerator(), small_model(torch.float32)
    optimizer = adam(model.parameters())
    with pytest.raises(ValueError, match="one of them"):
        register_synapses(here, model, optimizer, c=C)
    with pytest.raises(ValueError, match="one of them"):
        register_synapses(here, model, optimizer, c=C, xi=XI, importance=si.PathIntegral(XI))


def test_protect_leaves_parameters_without_synapses() -> None:
    """By their names in the bare model, also where it is compiled."""
    here, model = accelerator(), small_model(torch.float32)
    optimizer = adam(model.parameters())
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    synapses = register_synapses(here, compiled, optimizer, c=C, xi=XI, protect=lambda name: name.startswith("0."))
    assert sorted(synapses.anchor) == ["0.bias", "0.weight"]


def test_another_estimator_with_a_coarse_omega() -> None:
    """``importance`` and ``omega_dtype`` as in ``Consolidator``; the data is given to ``consolidate``."""
    here, model = accelerator(), small_model(torch.float32)
    fisher = si.Fisher(model, F.cross_entropy, kind="exact")
    optimizer = adam(model.parameters())
    synapses = register_synapses(here, model, optimizer, c=C, importance=fisher, omega_dtype=torch.bfloat16)
    synapses.consolidate(batches(0))
    assert {omega.dtype for omega in synapses.omega.values()} == {torch.bfloat16}
    assert any(bool(omega.any()) for omega in synapses.omega.values())


def test_without_accelerate_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``ImportError`` with what to install."""
    monkeypatch.setitem(sys.modules, "accelerate", None)
    spec = importlib.util.spec_from_file_location("afresh", integration.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"pip install \"synaptic-intelligence\[accelerate\]\""):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/accelerate_loop.py``."""
    with_synapses, without = first_task_accuracies(run_example("accelerate_loop.py", tmp_path))
    assert with_synapses > without + 0.1
