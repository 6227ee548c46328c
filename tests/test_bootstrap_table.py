"""The table of what is kept of a checkpoint shows the strength that was chosen, and says where a grid ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bootstrap_table import bootstrap_table

RESULT = Path(__file__).resolve().parent.parent / "results" / "bootstrap.json"


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]


def test_each_way_is_shown_with_the_strength_that_held_out_images_have_chosen() -> None:
    found = json.loads(RESULT.read_text("utf-8"))
    header, _, _, *rows = rows_of(bootstrap_table(RESULT))
    assert header[:4] == ["importance from", "c", "digits 0 to 4", "digits 5 to 9"]
    assert [row[0] for row in rows] == ["none", "Uniform", "ShortPath", "MAS", "Fisher"]
    for way, c, old, new, *_ in rows:
        tried: list[dict[str, Any]] = [row for row in found["rows"] if row["way"] == way]
        best = max(tried, key=lambda row: sum(row["held_out_old"]) + sum(row["held_out_new"]))
        assert float(c.partition(",")[0]) == best["c"]
        for shown, values in ((old, best["old"]), (new, best["new"])):
            assert float(shown.partition(" ")[0]) == pytest.approx(sum(values) / len(values), abs=5.1e-4)


def test_a_choice_at_the_end_of_its_grid_says_so(tmp_path: Path) -> None:
    found = json.loads(RESULT.read_text("utf-8"))
    found["chosen"]["MAS"] = max(row["c"] for row in found["rows"] if row["way"] == "MAS")
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps(found), "utf-8")
    cells = {row[0]: row[1] for row in rows_of(bootstrap_table(file))}
    assert cells["MAS"].endswith("the end of its grid")
    assert cells["none"] == "0"
