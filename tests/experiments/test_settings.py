from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from synaptic_intelligence.experiments.settings import Settings, deviations, flags

PAPER = Settings(seeds=10, first_seed=0, c=(0.0, 1.0), xi=1e-3, epochs=10, batch_size=64, lr=1e-3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seeds", 0),
        ("first_seed", -1),
        ("first_seed", 2**62),
        ("c", ()),
        ("c", (1.0, -0.1)),
        ("c", (math.inf,)),
        ("c", (math.nan,)),
        ("c", (1.0, 0.0, 1.0)),
        ("xi", 0.0),
        ("xi", math.nan),
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", -1e-3),
        ("lr", math.inf),
        ("limit", 0),
    ],
)
def test_a_value_without_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} "):
        replace(PAPER, **{name: value})


def test_the_papers_settings_deviate_in_nothing_and_need_no_flag() -> None:
    assert deviations(PAPER, PAPER) == []
    assert flags(PAPER, PAPER) == []


def test_other_seeds_and_strengths_stay_within_the_protocol() -> None:
    assert deviations(replace(PAPER, seeds=3, first_seed=7, c=(0.1,)), PAPER) == []


def test_everything_else_is_a_deviation_in_words() -> None:
    ours = replace(PAPER, xi=0.1, epochs=1, batch_size=32, lr=0.01, limit=200)
    assert deviations(ours, PAPER) == [
        "xi 0.1 instead of 0.001",
        "1 epoch instead of 10",
        "batches of 32 instead of 64",
        "learning rate 0.01 instead of 0.001",
        "only the first 200 training images of each task",
    ]


def test_settings_that_differ_look_different() -> None:
    ours = replace(PAPER, xi=0.0010000001, lr=0.0010000001)
    assert deviations(ours, PAPER) == [
        "xi 0.0010000001 instead of 0.001",
        "learning rate 0.0010000001 instead of 0.001",
    ]


def test_flags_give_every_setting_back() -> None:
    ours = Settings(seeds=2, first_seed=5, c=(0.5, 1.0), xi=0.1, epochs=1, batch_size=32, lr=0.01, limit=200)
    assert " ".join(flags(ours, PAPER)) == (
        "--seeds 2 --first-seed 5 --c 0.5 --c 1.0 --xi 0.1 --epochs 1 --batch-size 32 --lr 0.01 --limit 200"
    )
