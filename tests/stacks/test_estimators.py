"""The estimators for weights without synapses: two gloo ranks against one process."""

from __future__ import annotations

import pytest
import torch
from oracle import assert_close
from stacks.estimating import Name, message_of, omega_of
from stacks.jobs import Wrap
from stacks.ranks import Ranks


@pytest.mark.parametrize(
    ("wrap", "name"),
    [("ddp", "mas"), ("fsdp2", "mas"), ("ddp", "short_path"), ("ddp", "uniform"), ("fsdp2", "uniform")],
)
def test_two_ranks_equal_one_process_within_1e_12(two_ranks: Ranks, wrap: Wrap, name: Name) -> None:
    """The data of both counts, of other sizes; both then have the same omega, to the last bit."""
    expected, _ = omega_of(0, "bare", name)
    found = two_ranks.run(omega_of, wrap, name)
    for omega, untouched in found:
        assert_close(omega.items(), expected, 1e-12)
        assert untouched
    (first, _), (second, _) = found
    assert all(torch.equal(first[parameter], second[parameter]) for parameter in first)
    assert all(bool(omega.any()) for omega in expected.values())


def test_a_short_path_of_sharded_parameters_is_refused(two_ranks: Ranks) -> None:
    """It takes its steps on whole copies."""
    first, second = two_ranks.run(message_of, "fsdp2", "short_path")
    assert first == second
    assert first.startswith("parameters are sharded")
    assert "use Fisher" in first
