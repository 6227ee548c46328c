"""Self-diagnosis on two gloo ranks, against one process."""

from __future__ import annotations

import pytest
from stacks.diagnosing import (
    Mesh,
    diagnosis_of,
    divergence_in_a_step,
    still_share_of,
    tiny_parameter,
    warned_on_one_rank,
)
from stacks.jobs import Wrap
from stacks.ranks import Ranks


@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
def test_two_ranks_find_what_one_process_finds(two_ranks: Ranks, wrap: Wrap) -> None:
    expected = diagnosis_of(0, "bare", 0.9)
    assert [finding.what for finding in expected.findings] == ["unstable", "pull-dominates", "penalty-over-loss"]
    for found in two_ranks.run(diagnosis_of, wrap, 0.9):
        for figure in ("stability", "penalty", "pull_share", "covered_share", "still_share"):
            assert getattr(found, figure) == pytest.approx(getattr(expected, figure), rel=1e-6), figure
        assert (found.stiffest, found.most_pulled, found.steps) == (expected.stiffest, expected.most_pulled, 5)
        assert [*map(str, found.findings)] == [*map(str, expected.findings)]


def test_a_rank_without_a_part_of_the_stiffest_parameter_knows_of_it(two_ranks: Ranks) -> None:
    assert two_ranks.run(tiny_parameter) == [pytest.approx(0.1 * 2 * (0.1 / 1.01) / 2)] * 2


MESHES: list[Mesh] = ["ddp", "fsdp2", "copies", "two meshes"]


@pytest.mark.parametrize("mesh", MESHES)
def test_the_share_that_stays_is_that_of_all_ranks_and_all_warn_of_it(two_ranks: Ranks, mesh: Mesh) -> None:
    share, (message,) = still_share_of(0, "bare")
    assert share == pytest.approx((64 + 4 - 25) / (64 + 4))
    assert "63% of the numbers in 16 bits or fewer" in message
    assert two_ranks.run(still_share_of, mesh) == [(pytest.approx(share), [message])] * 2


def test_a_warning_that_is_an_error_on_one_rank_is_one_on_all(two_ranks: Ranks) -> None:
    for raised, tasks, after in two_ranks.run(warned_on_one_rank):
        assert "left by a step exactly where they were" in raised
        assert (tasks, after) == (0, 1)


@pytest.mark.parametrize("mesh", MESHES)
def test_steps_that_diverge_are_warned_of_on_all_ranks_alike(two_ranks: Ranks, mesh: Mesh) -> None:
    expected = divergence_in_a_step(0, "bare")
    assert "the pull on '0.weight' is" in expected
    assert two_ranks.run(divergence_in_a_step, mesh) == [expected] * 2
