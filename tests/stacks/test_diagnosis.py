"""Self-diagnosis on two gloo ranks, against one process."""

from __future__ import annotations

import pytest
from stacks.diagnosing import diagnosis_of, tiny_parameter
from stacks.jobs import Wrap
from stacks.ranks import Ranks


@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
def test_two_ranks_find_what_one_process_finds(two_ranks: Ranks, wrap: Wrap) -> None:
    expected = diagnosis_of(0, "bare", 0.9)
    assert [finding.what for finding in expected.findings] == ["unstable", "penalty-over-loss"]
    for found in two_ranks.run(diagnosis_of, wrap, 0.9):
        for figure in ("stability", "penalty", "pull_share", "covered_share", "still_share"):
            assert getattr(found, figure) == pytest.approx(getattr(expected, figure), rel=1e-6), figure
        assert (found.stiffest, found.steps, found.findings) == (expected.stiffest, 5, expected.findings)


def test_a_rank_without_a_part_of_the_stiffest_parameter_knows_of_it(two_ranks: Ranks) -> None:
    assert two_ranks.run(tiny_parameter) == [pytest.approx(0.1 * 2 * (0.1 / 1.01) / 2)] * 2
