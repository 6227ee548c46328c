"""Surgery on a model that FSDP2 shards over two ranks, against one process that holds it whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from stacks.plain import assert_same
from stacks.ranks import Ranks
from stacks.surgery_by_rank import SURGERY, Way, message_of, paused_then_surgery, through_surgery


@pytest.mark.parametrize("way", ["attach", "state", "file"])
def test_two_ranks_equal_one_process_within_1e_12(two_ranks: Ranks, way: Way, tmp_path: Path) -> None:
    """What is kept, resized, moved, replaced, added and renamed; in process, by state, and by file."""
    alone = tmp_path / "alone"
    alone.mkdir()
    first, second = two_ranks.run(through_surgery, "fsdp2", way, tmp_path)
    assert_same(first, second)
    assert_same(first, through_surgery(0, "bare", "attach", alone), weights=1e-12, importance=1e-12)


def test_the_ways_agree_bit_for_bit_in_one_process(tmp_path: Path) -> None:
    found = [through_surgery(0, "bare", way, tmp_path) for way in ("attach", "state", "file")]
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_weights_that_are_not_at_their_anchor_are_compared_with_what_they_were(two_ranks: Ranks) -> None:
    first, second = two_ranks.run(paused_then_surgery, "fsdp2")
    assert_same(first, second)
    assert_same(first, paused_then_surgery(0, "bare"), weights=1e-12, importance=1e-12)


def test_what_is_refused_is_refused_on_every_rank(two_ranks: Ranks) -> None:
    """Values are compared over all parts, so that no rank goes on alone."""
    first, second = two_ranks.run(message_of, replace(SURGERY, moved=["0.bias"]))
    assert first == second
    assert "moved '0.bias': the values are those of before" in first
