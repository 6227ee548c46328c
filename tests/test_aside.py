"""What docs/paper.md says of experiments beside the paper's, from made-up numbers, and what it may say of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aside
import pytest

RESULTS = Path(__file__).resolve().parent.parent / "results"


def shared(*means: float, epochs: int = 5) -> dict[str, Any]:
    """Seven tasks, of which all pairs are as alike as is said, once for each strength."""
    runs = [
        {
            "c": float(number),
            "correlations": {
                name: {"path": [[mean] * i for i in range(7)], "units": [[2 * mean] * i for i in range(7)]}
                for name in ("0.weight", "2.weight", "4.weight")
            },
        }
        for number, mean in enumerate(means)
    ]
    return {"command": "python made_up.py", "epochs": epochs, "runs": runs}


def written(folder: Path, found: dict[str, Any]) -> Path:
    file = folder / "made-up.json"
    file.write_text(json.dumps(found), "utf-8")
    return file


def test_the_table_has_a_row_for_each_layer_and_reading(tmp_path: Path) -> None:
    lines = aside.shared(written(tmp_path, shared(0.1, 0.2))).splitlines()
    spans = ("neighbours", "five or more apart", "all")
    assert lines[0] == "| | " + " | ".join(f"{span}, c = {c}" for span in spans for c in (0, 1)) + " |"
    assert lines[2] == "| first layer, path |" + " 0.100 | 0.200 |" * 3
    assert lines[5] == "| second layer, units |" + " 0.200 | 0.400 |" * 3
    assert lines[7].startswith("One seed (not the paper's protocol: 5 epochs instead of 20): `python made_up.py`")
    assert "not the paper's" not in aside.shared(written(tmp_path, shared(0.1, epochs=20)))


@pytest.mark.parametrize(("span", "mean"), [((1, 1), 0.4), ((2, 2), 0.1), ((1, 9), 0.3)])
def test_means_are_those_of_the_tasks_so_far_apart(span: tuple[int, int], mean: float) -> None:
    assert aside.mean_between([[], [0.5], [0.1, 0.3]], *span) == pytest.approx(mean)


def test_epsilon_is_told_of_both_places(tmp_path: Path) -> None:
    forms = [
        {"epsilon": place, "accuracy": [[0.5, 0.1], [0.9, last]], "sum_of_omega": [1.0, total]}
        for place, last, total in (("after", 0.8, 4.0), ("before", 0.7, 5.0))
    ]
    found = {"command": "python made_up.py", "epochs": 20, "c": 0.1, "forms": forms}
    assert aside.epsilon(written(tmp_path, found)).startswith(
        "With epsilon before the correction the second task ends (c = 0.1) with accuracies of 0.900 and 0.700 on the "
        "two tasks, with ours 0.900 and 0.800; all importance together is then 1.250 times ours. One seed: `python "
    )


def test_our_run_says_what_the_page_says_of_it() -> None:
    """The words below the table of figure 5; where this fails, they must change."""
    runs = json.loads((RESULTS / "shared-synapses.json").read_text("utf-8"))["runs"]

    def mean(layer: int, reading: str, least: int, most: int) -> list[float]:
        found = [list(run["correlations"].values())[layer][reading] for run in runs]
        return [aside.mean_between(below, least, most) for below in found]

    assert [run["c"] for run in runs] == [0.0, 0.1, 1.0]
    near, far, every = (1, 1), (5, 9), (1, 9)
    for span in (near, far, every):
        assert all(units > path for units, path in zip(mean(1, "units", *span), mean(1, "path", *span), strict=True))
    assert max(mean(1, "synapses", *every)) < 0.05
    free, weak, strong = mean(1, "sending", *near)
    assert free > weak > strong
    free, weak, strong = mean(1, "sending", *far)
    assert weak > free > strong
    for span in (near, far):
        free, weak, strong = mean(1, "receiving", *span)
        assert free < weak < strong
    free, weak, _ = mean(1, "path", *far)
    assert weak > free
    for layer, span in ((1, near), (1, every), (0, near), (0, far), (0, every)):
        free, _, strong = mean(layer, "path", *span)
        assert strong < free
    for span in (near, far, every):
        free, *held = mean(1, "ranks", *span)
        assert min(held) > free
