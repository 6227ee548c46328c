"""How an outcome was made, in words: its training time beside the time by the clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up import RESULT, measures, run

from synaptic_intelligence.document import JSON
from synaptic_intelligence.paper.outcome import made
from synaptic_intelligence.result import Run


def _timed(seed: int, method: str, c: float | None, seconds: list[float]) -> Run:
    whole = run(seed, method, c, last=[0.9] * max(2, len(seconds)))
    done = whole.accuracy[: len(seconds)]
    return replace(whole, accuracy=done, task_seconds=seconds, train_accuracy=[0.9] * len(done))


@pytest.mark.parametrize(
    ("runs", "seconds"),
    [
        ([("si", 0.0, [10.0, 1.0]), ("si", 1.0, [10.0, 2.0])], 13.0),
        ([("si", 1.0, [10.0, 2.0]), ("ewc", 3.0, [10.0, 3.0]), ("scratch", None, [10.0, 4.0])], 19.0),
        ([("si", 1.0, [10.0, 2.0]), ("sgd-dropout", None, [5.0, 6.0])], 23.0),
        ([("si", 1.0, [10.0, 2.0]), ("joint", None, [30.0])], 42.0),
        ([("si", 0.0, [10.0]), ("si", 1.0, [10.0])], 10.0),
        # The one that an extension has trained again.
        ([("si", 0.0, [10.0, 1.0]), ("si", 1.0, [12.0, 2.0]), ("ewc", 3.0, [12.0, 3.0])], 28.0),
        ([("si", 0.0, [])], 0.0),
    ],
)
def test_a_first_task_that_methods_share_was_trained_once_for_each_seed(
    runs: list[tuple[str, float | None, list[float]]], seconds: float
) -> None:
    result = replace(RESULT, runs=[_timed(seed, *each) for seed in (0, 1) for each in runs], wall_seconds=70.0)
    told = made(result)
    assert told == (
        f"`synaptic run split-mnist`, {2 * seconds:.1f} seconds of training (70.0 seconds by the clock) on a machine, "
        "torch 2.13.0"
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(119.0, "119.0 seconds"), (121.0, "2.0 minutes"), (5000.0, "83.3 minutes"), (9360.0, "2.6 hours")],
)
def test_times_are_told_in_the_unit_that_suits_them(seconds: float, told: str) -> None:
    result = replace(RESULT, runs=[_timed(0, "si", 0.0, [seconds])], wall_seconds=2 * seconds)
    assert f" {told} of training (" in made(result)


def test_a_study_has_its_time_by_the_clock_alone() -> None:
    assert ", 90.0 seconds on a machine" in made(measures(1))


def test_a_clock_that_ran_less_than_the_longest_run_is_not_told() -> None:
    """Its time before a stop was lost."""
    runs = [_timed(0, "si", 0.0, [50.0, 30.0]), _timed(0, "si", 1.0, [50.0, 20.0])]
    assert "(80.0 seconds by the clock)" in made(replace(RESULT, runs=runs, wall_seconds=80.0))
    told = made(replace(RESULT, runs=runs, wall_seconds=79.0))
    assert "100.0 seconds of training (the clock of an earlier sitting is lost) on a machine" in told


def test_a_first_task_that_was_taken_over_from_the_main_result_is_told_and_not_counted() -> None:
    main = replace(RESULT, runs=[_timed(0, "si", 0.0, [50.0, 30.0])])
    beside = replace(RESULT, runs=[_timed(0, "si", 1.0, [50.0, 20.0])], wall_seconds=25.0)
    told = "20.0 seconds of training after the main result's first task (25.0 seconds by the clock) on a machine"
    assert told in made(beside, main)
    extended = replace(beside, runs=[*beside.runs, _timed(0, "si", 0.1, [60.0, 10.0])], wall_seconds=99.0)
    assert "90.0 seconds of training after the main result's first task, one of its own included (99.0" in made(
        extended, main
    )
    assert "(the clock of an earlier sitting is lost) on a machine" in made(beside)
    # Another first task, of the same seed or of another, was not taken over; one's own is not either.
    for other in (_timed(0, "si", 0.0, [51.0, 30.0]), _timed(1, "si", 0.0, [50.0, 30.0])):
        assert made(beside, replace(RESULT, runs=[other])) == made(beside)
    rival = replace(RESULT, runs=[_timed(0, "sgd-dropout", None, [50.0, 20.0])], wall_seconds=70.0)
    assert "70.0 seconds of training (70.0 seconds by the clock) on a machine" in made(rival, main)


def test_the_commit_is_told_where_there_is_one() -> None:
    git: JSON = {"commit": "0123456789abcdef", "changed": False}
    assert made(replace(RESULT, environment={**RESULT.environment, "git": git})).endswith("2.13.0, commit 0123456")
    assert "commit" not in made(replace(RESULT, environment={**RESULT.environment, "git": None}))


def test_how_often_a_run_was_resumed_is_told() -> None:
    sittings: JSON = [{"started": "2025-01-31T12:00:00+00:00"}, {"started": "2025-02-01T12:00:00+00:00"}]
    result = replace(RESULT, environment={**RESULT.environment, "resumed": sittings})
    assert made(result).endswith(", 90.0 seconds on a machine, torch 2.13.0, resumed 2 times")


def test_every_commit_is_told_and_what_was_extended() -> None:
    later: JSON = [
        {"started": "2025-01-31T12:00:00+00:00", "git": {"commit": "fedcba9876543210"}},
        {"started": "2025-02-01T12:00:00+00:00", "extended": "synaptic run split-mnist --seeds 2"},
        {"started": "2025-02-02T12:00:00+00:00", "git": {"commit": "fedcba9876543210"}},
    ]
    git: JSON = {"commit": "0123456789abcdef"}
    result = replace(RESULT, environment={**RESULT.environment, "git": git, "resumed": later})
    assert made(result).startswith(
        "`synaptic run split-mnist`, which extended `synaptic run split-mnist --seeds 2`, 90.0"
    )
    assert made(result).endswith("torch 2.13.0, commits 0123456, fedcba9, resumed 3 times")
