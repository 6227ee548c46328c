"""The plain loop itself, which the stacks are compared with, against the naive oracle."""

from __future__ import annotations

import pytest
import torch
from oracle import NaiveSynapses, assert_close, loss_of, small_model
from stacks.plain import TASKS, XI, C, Outcome, adam, assert_same, batches, train_plainly

pytestmark = pytest.mark.stack("plain PyTorch")


def test_equals_the_penalty_in_the_loss_within_1e_12() -> None:
    """The same as an independent implementation with the penalty in the loss."""
    model = small_model()
    optimizer, naive = adam(model.parameters()), NaiveSynapses(model, C, XI)
    for task in range(TASKS):
        for x, y in batches(task, torch.float64):
            naive.step(optimizer, loss_of(model, x, y))
        if task + 1 < TASKS:
            naive.consolidate()
    found = train_plainly(dtype=torch.float64)
    assert_close(found.weights.items(), dict(model.named_parameters()), 1e-12)
    assert_close(found.omega.items(), naive.omega, 1e-12)
    assert_close(found.path.items(), naive.path, 1e-12)
    assert_close(found.anchor.items(), naive.anchor, 1e-12)


def test_the_comparison_sees_a_difference_in_any_part() -> None:
    """A difference of one unit in the last place is seen; so is a path that was clipped otherwise."""
    plain = train_plainly()
    assert_same(train_plainly(), plain)
    for kind in ("weights", "omega", "path", "anchor"):
        part = {name: tensor.clone() for name, tensor in getattr(plain, kind).items()}
        part["0.weight"].view(-1)[0] = part["0.weight"].view(-1)[0].nextafter(torch.tensor(9.0))
        parts = {each: getattr(plain, each) for each in ("weights", "omega", "path", "anchor")}
        with pytest.raises(AssertionError, match=kind):
            assert_same(Outcome(**{**parts, kind: part}, tasks=plain.tasks), plain)
    with pytest.raises(AssertionError):
        assert_same(train_plainly(clip=0.05), plain, weights=1e-3, importance=1e-3)
