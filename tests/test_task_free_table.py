"""The tables of docs/task-free.md, from a result that no benchmark has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from task_free_table import task_free_table

GRID = {"window": 20, "mean_below": 0.05, "std_below": 0.025}
ARMS: list[dict[str, Any]] = [
    {"name": "told", "c": 1.0, "every": None, "plateau": None},
    {"name": "plateau", "c": 1.0, "every": None, "plateau": GRID},
    {"name": "every", "c": 1.0, "every": 7, "plateau": None},
    {"name": "none", "c": 0.0, "every": None, "plateau": None},
]


def run(arm: str, seed: int, accuracy: list[float], consolidated: list[int]) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "accuracy": accuracy, "consolidated": consolidated}


FOUND: dict[str, Any] = {
    "command": "python benchmarks/task_free.py",
    "environment": {"device_name": "a machine", "torch": "2.13.0"},
    "cpu_seconds": 300.0,
    "epochs": 3,
    "xi": 1e-3,
    "tasks": ["0/1", "2/3"],
    "steps": [10, 12],
    "mistuned": 0.37,
    "arms": ARMS,
    "seeds": [4, 5],
    "runs": [
        *(run("told", seed, [0.9, 1.0], [10, 22]) for seed in (4, 5)),
        run("plateau", 4, [0.8, 0.9], [6, 15, 21]),
        run("plateau", 5, [0.9, 1.0], [6]),
        *(run("every", seed, [0.5, 0.6], [7, 14, 21]) for seed in (4, 5)),
        *(run("none", seed, [0.1, 0.3], [10, 22]) for seed in (4, 5)),
    ],
    "search_seed": 100,
    "search": [
        {**GRID, "accuracy": [0.9, 0.8], "consolidated": [6, 15]},
        {**GRID, "window": 50, "accuracy": [0.7, 0.8], "consolidated": [9]},
    ],
}


@pytest.fixture
def table(tmp_path: Path) -> str:
    file = tmp_path / "task-free.json"
    file.write_text(json.dumps(FOUND), "utf-8")
    return task_free_table(file)


def test_each_arm_has_its_mean_and_where_it_consolidated(table: str) -> None:
    # Two values, 0.85 and 0.95: Student's t of one degree of freedom is 12.706, so 12.706 * 0.0707 / sqrt(2).
    assert table.splitlines()[2:6] == [
        "| told where tasks end | 0.950 ± 0.000 |  | 2 | 10, 22 |",
        "| `Plateau` | 0.900 ± 0.635 | -0.050 ± 0.635 | 1 to 3 | 6, 15, 21 |",
        "| `Every(7)` | 0.550 ± 0.000 | -0.400 ± 0.000 | 3 | 7, 14, 21 |",
        "| without synapses | 0.200 ± 0.000 | -0.750 ± 0.000 |  |  |",
    ]


def test_it_says_how_the_plateau_was_chosen(table: str) -> None:
    assert "end at the steps 10, 22" in table
    assert "`window=20`, `mean_below=0.05`, `std_below=0.025`: what did best of 2 on seed 100" in table
    assert "0.750 to 0.850" in table
    assert "| 50 | 0.05 | 0.025 | 0.750 | 1 |" in table.splitlines()


def test_it_says_how_it_was_made(table: str) -> None:
    assert "`python benchmarks/task_free.py` in 5 minutes of one core (a machine, torch 2.13.0)" in table
