from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from synaptic_intelligence.experiments.job import NOISE_SEED
from synaptic_intelligence.experiments.settings import Settings, deviations, flags

PAPER = Settings(seeds=10, first_seed=0, c=(0.0, 1.0), xi=1e-3, epochs=10, batch_size=64, lr=1e-3, tasks=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seeds", 0),
        ("first_seed", -1),
        ("first_seed", 2**30),
        ("seeds", 2**30 + 1),
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
        ("tasks", 0),
        ("limit", 0),
        ("rivals", ("ewc",)),
        ("rivals", ("joint", "joint")),
        ("fisher_images", 0),
    ],
)
def test_a_value_without_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        replace(PAPER, **{name: value})


def test_the_last_seed_that_is_taken_has_three_generators_of_its_own() -> None:
    settings = replace(PAPER, seeds=2, first_seed=2**30 - 2)
    drawn = []
    for seed in settings.all_seeds:
        for used in (2 * seed, 2 * seed + 1, NOISE_SEED + seed):
            drawn.append(tuple(torch.rand(4, generator=torch.Generator().manual_seed(used)).tolist()))
    assert len(set(drawn)) == len(drawn) == 6


def test_the_papers_settings_deviate_in_nothing_and_need_no_flag() -> None:
    assert deviations(PAPER, PAPER) == []
    assert flags(PAPER, PAPER) == []


def test_other_seeds_strengths_and_rivals_stay_within_the_protocol() -> None:
    assert deviations(replace(PAPER, seeds=3, first_seed=7, c=(0.1,), rivals=("joint", "ewc:3")), PAPER) == []


def test_everything_else_is_a_deviation_in_words() -> None:
    shorter = replace(PAPER, xi=0.1, epochs=1, batch_size=32, lr=0.01, tasks=1, limit=200)
    ours = replace(shorter, fisher_images=9, rivals=("ewc:1",), keep_step_count=True, coarse_omega=True)
    assert deviations(ours, PAPER) == [
        "xi 0.1 instead of 0.001",
        "1 epoch instead of 10",
        "batches of 32 instead of 64",
        "learning rate 0.01 instead of 0.001",
        "1 task instead of 5",
        "Fisher from 9 images instead of our 1024",
        "Adam's count of steps goes on from task to task, as in the authors' code",
        "omega in bfloat16",
        "only the first 200 images of each task",
    ]
    # Where EWC is not run, nothing is estimated from these images.
    assert deviations(replace(shorter, fisher_images=9), PAPER) == deviations(shorter, PAPER)


def test_settings_that_differ_look_different() -> None:
    ours = replace(PAPER, xi=0.0010000001, lr=0.0010000001)
    assert deviations(ours, PAPER) == [
        "xi 0.0010000001 instead of 0.001",
        "learning rate 0.0010000001 instead of 0.001",
    ]


def test_flags_give_every_setting_back() -> None:
    ours = Settings(
        seeds=2,
        first_seed=5,
        c=(0.5, 1.0),
        xi=0.1,
        epochs=1,
        batch_size=32,
        lr=0.01,
        tasks=3,
        limit=200,
        rivals=("ewc:30", "joint"),
        fisher_images=9,
        keep_step_count=True,
        coarse_omega=True,
    )
    assert [name for name in vars(ours) if getattr(ours, name) == getattr(PAPER, name)] == []
    assert " ".join(flags(ours, PAPER)) == (
        "--seeds 2 --first-seed 5 --c 0.5 --c 1.0 --xi 0.1 --epochs 1 --batch-size 32 --lr 0.01 --tasks 3 --limit 200 "
        "--rival ewc:30 --rival joint --fisher-images 9 --keep-step-count --coarse-omega"
    )
