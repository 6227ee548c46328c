"""torch.distributed.checkpoint: saved by some ranks, resumed by others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import small_model
from stacks.jobs import ALL, Form, Job, Wrap, optimizer_and_synapses, train
from stacks.plain import RATE, assert_same, train_plainly
from stacks.ranks import Ranks
from torch.distributed.checkpoint.state_dict import get_state_dict

pytestmark = [
    pytest.mark.stack("distributed checkpoints"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]


@pytest.mark.parametrize("stops", [(5, 8), (17, 30)], ids=["in the first task", "later"])
@pytest.mark.parametrize("form", ["hooks", "inside"])
@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
def test_two_ranks_then_one_then_two_equal_an_uninterrupted_run_within_1e_12(
    two_ranks: Ranks, wrap: Wrap, form: Form, stops: tuple[int, int], tmp_path: Path
) -> None:
    """Saved by two ranks, resumed in one process, saved, and resumed by two: DDP and FSDP2, both forms."""
    first, second = stops
    two_ranks.run(train, Job(wrap, form, 0, first, save=tmp_path / "a"))
    train(0, Job("bare", form, first, second, load=tmp_path / "a", save=tmp_path / "b"))
    found, other = two_ranks.run(train, Job(wrap, form, second, ALL, load=tmp_path / "b"))
    assert_same(found, other)
    assert_same(found, train_plainly(dtype=torch.float64), weights=1e-12, importance=1e-12)


@pytest.mark.parametrize("rate", ["number", "tensor"])
@pytest.mark.parametrize("form", ["hooks", "inside"])
def test_the_step_that_makes_the_optimizers_state_counts_as_none(form: Form, rate: str) -> None:
    """Asking a fresh optimizer for its state makes it step once: no step of the synapses, and nothing moves."""
    model = small_model()
    optimizer, synapses = optimizer_and_synapses(model, form)
    if rate == "tensor":
        optimizer.param_groups[0]["lr"] = torch.tensor(RATE)
    before = [p.detach().clone() for p in model.parameters()]
    get_state_dict(model, optimizer)
    assert synapses.state_dict()["steps"] == 0
    assert not any(bool(path.any()) for path in synapses.path.values())
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
