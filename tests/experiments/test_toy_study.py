"""The toy against the same computation in plain numpy, and what its figure claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synaptic_intelligence.experiments.study import run_study, study_deviations
from synaptic_intelligence.experiments.toy import (
    START,
    TASKS,
    TOY,
    Toy,
    Valley,
    compute,
    crossing,
    thinned,
    valley_loss,
)
from synaptic_intelligence.findings import read_findings, write_findings

SMALL = Toy(lr=0.1, steps=1500)


def curvature(valley: Valley) -> Any:
    angle = math.radians(valley.across)
    across, along = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    return valley.steep * np.outer(across, across) + valley.flat * np.outer(along, along)


def loss(theta: Any, valley: Valley) -> float:
    offset = theta - np.array(valley.minimum)
    return float(valley.depth * np.log(1 + offset @ curvature(valley) @ offset / (2 * valley.depth)))


def gradient(theta: Any, valley: Valley) -> Any:
    offset = theta - np.array(valley.minimum)
    pull = curvature(valley) @ offset
    return pull / (1 + offset @ pull / (2 * valley.depth))


@pytest.fixture(scope="module")
def numbers() -> Mapping[str, Any]:
    return compute(SMALL, None, lambda words: None)


@pytest.mark.parametrize("valley", TASKS)
def test_a_valley_has_the_curvature_and_the_loss_that_it_says(valley: Valley) -> None:
    minimum = torch.tensor(valley.minimum, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda theta: valley_loss(theta, valley), minimum)
    assert np.abs(hessian.numpy() - curvature(valley)).max() < 1e-12
    assert float(valley_loss(minimum, valley)) == 0.0
    for theta in torch.randn(20, 2, dtype=torch.float64):
        assert float(valley_loss(theta, valley)) == pytest.approx(loss(theta.numpy(), valley), rel=1e-12)


def test_task_1_is_steep_along_the_first_synapse_and_task_2_along_the_second() -> None:
    (first, tilt), (_, second) = curvature(TASKS[0])
    assert first > 10 * second
    assert tilt != 0
    (first, tilt), (_, second) = curvature(TASKS[1])
    assert second > 10 * first
    assert tilt != 0


def test_where_the_valleys_cross_both_tasks_are_solved() -> None:
    point = np.array(crossing(*TASKS))
    for valley in TASKS:
        angle = math.radians(valley.across)
        assert (point - valley.minimum) @ [math.cos(angle), math.sin(angle)] == pytest.approx(0, abs=1e-12)
        assert loss(point, valley) < 0.06 * loss(np.array(START), valley)


def test_it_is_synaptic_intelligence_in_plain_numpy(numbers: Mapping[str, Any]) -> None:
    theta, path = np.array(START), np.zeros(2)
    for _ in range(SMALL.steps):
        g = gradient(theta, TASKS[0])
        theta = theta - SMALL.lr * g
        path += SMALL.lr * g * g
    omega, anchor = path / ((theta - np.array(START)) ** 2 + SMALL.xi), theta
    first = numbers["first"]
    for name, expected in (("path", path), ("omega", omega), ("anchor", anchor)):
        assert np.abs(np.array(first[name]) - expected).max() < 1e-12, name
    for name, c in (("without", 0.0), ("with", SMALL.c)):
        theta = anchor
        for _ in range(SMALL.steps):
            theta = theta - SMALL.lr * (gradient(theta, TASKS[1]) + 2 * c * omega * (theta - anchor))
        assert np.abs(np.array(numbers["second"][name][-1]) - theta).max() < 1e-12
        assert numbers["losses"][name] == pytest.approx([loss(theta, task) for task in TASKS], abs=1e-12)
    assert numbers["losses"]["start"] == pytest.approx([loss(np.array(START), task) for task in TASKS])
    assert numbers["losses"]["after task 1"] == pytest.approx([loss(anchor, task) for task in TASKS])


def test_without_synapses_task_1_is_forgotten_and_with_them_both_are_solved(numbers: Mapping[str, Any]) -> None:
    losses = numbers["losses"]
    assert losses["without"][0] > 0.7 * losses["start"][0]
    assert losses["without"][1] < 0.001
    assert losses["with"][0] < 0.06 * losses["start"][0]
    assert losses["with"][1] < 0.06 * losses["start"][1]
    assert losses["both solved"][0] < 0.06 * losses["start"][0]
    # The synapse along which task 1 is steep is the important one.
    assert numbers["first"]["omega"][0] > 5 * numbers["first"]["omega"][1]


def test_the_surrogate_drops_as_the_loss_did_but_for_the_step(numbers: Mapping[str, Any]) -> None:
    found = numbers["conditions"]
    finer: Mapping[str, Any] = compute(Toy(lr=0.05, steps=3000), None, lambda words: None)
    assert 0 < found["path_against_drop"] < 0.01
    assert found["path_against_drop"] / finer["conditions"]["path_against_drop"] == pytest.approx(2, rel=0.05)
    assert abs(found["surrogate_against_path"]) < 1e-12
    assert found["surrogate_against_drop"] == pytest.approx(found["path_against_drop"], abs=1e-12)
    drop = loss(np.array(START), TASKS[0]) - loss(np.array(numbers["first"]["anchor"]), TASKS[0])
    assert found["drop"]["loss"] == pytest.approx(drop, rel=1e-12)
    movement = np.array(numbers["first"]["anchor"]) - START
    surrogate = float(np.array(found["omega"]) @ movement**2)
    assert found["drop"]["surrogate"] == pytest.approx(surrogate, rel=1e-12)


def test_the_surrogate_moves_as_far_to_a_minimum_where_learning_ended(numbers: Mapping[str, Any]) -> None:
    found = numbers["conditions"]
    movement = np.array(numbers["first"]["trajectory"][-1]) - START
    assert found["movement"]["theta"] == pytest.approx(movement.tolist(), abs=1e-15)
    assert found["movement"]["anchor"] == pytest.approx(movement.tolist(), abs=1e-15)
    assert found["slope_at_end"]["surrogate"] == 0.0
    assert found["slope_at_end"]["loss"] < 1e-3


def test_trajectories_are_thinned_evenly_and_keep_their_ends(numbers: Mapping[str, Any]) -> None:
    for way in (numbers["first"]["trajectory"], *numbers["second"].values()):
        assert 2 <= len(way) <= 200
    assert numbers["first"]["trajectory"][0] == list(START)
    assert numbers["first"]["trajectory"][-1] == numbers["first"]["anchor"]
    assert numbers["second"]["with"][0] == numbers["first"]["anchor"]
    # A way that starts fast and ends slowly, as descent does.
    t = torch.linspace(0, 10, 20001, dtype=torch.float64)
    points = np.array(thinned(torch.stack([(-t).exp(), 1 - (-t).exp()], dim=1)))
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert len(points) == 200
    assert lengths.max() < 1.2 * lengths.min()


def test_of_a_way_that_stays_where_it_is_the_ends_are_kept() -> None:
    assert thinned(torch.ones(5, 2)) == [[1.0, 1.0], [1.0, 1.0]]


def test_it_is_a_small_file_that_says_what_it_is(numbers: Mapping[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    findings = run_study(TOY, SMALL, None, 1, "synaptic run toy", said.append)
    assert findings.numbers == numbers  # nothing is random
    write_findings(findings, tmp_path / "findings.json")
    assert read_findings(tmp_path / "findings.json") == findings
    assert (tmp_path / "findings.json").stat().st_size < 200_000
    assert said == ["learnt task 1", "learnt task 2, without synapses and with them"]
    assert findings.deviations == ["lr 0.1 instead of 0.01", "steps 1500 instead of 15000"]
    assert study_deviations(TOY, replace(Toy(), seeds=3)) == []
    assert study_deviations(TOY, TOY.quick) != []
