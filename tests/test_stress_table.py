"""The tables of docs/reliability.md show what broke, and nothing that has not ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stress_table import stress_table

ROW = {"what": "a loop of one's own", "kills": 5, "runs": 2, "most_in_one_run": 3, "left_half_a_file": 4, "lost": 0}


def written(tmp_path: Path, name: str = "stress-kills", **changes: Any) -> Path:
    found = {
        "command": "python stress/kills.py --kills 5",
        "environment": {
            "device_name": "a machine",
            "torch": "2.13.0",
            "git": {"commit": "0123456789", "changed": True},
        },
        "wall_seconds": 90.4,
        "done": True,
        "broken": [],
        "rows": [ROW, {**ROW, "what": "synaptic run split-mnist"}],
        **changes,
    }
    (tmp_path / f"{name}.json").write_text(json.dumps(found), "utf-8")
    return tmp_path / f"{name}.json"


def test_a_table_has_a_row_for_each_thing_that_was_tried_and_how_it_was_made(tmp_path: Path) -> None:
    assert stress_table(written(tmp_path)).splitlines() == [
        "| | kills | over so many runs | most in one run | half a file left behind | lost |",
        "| :-- | --: | --: | --: | --: | --: |",
        "| a loop of one's own | 5 | 2 | 3 | 4 | 0 |",
        "| `synaptic run split-mnist` | 5 | 2 | 3 | 4 | 0 |",
        "",
        "`python stress/kills.py --kills 5`, 90 seconds on a shared machine (a machine, torch 2.13.0, "
        "commit 0123456 with changes): [`stress-kills.json`](results/stress-kills.json). Every promise held.",
    ]


def test_what_broke_is_shown(tmp_path: Path) -> None:
    text = stress_table(written(tmp_path, broken=["a checkpoint is lost"]))
    assert "Every promise held" not in text
    assert text.rstrip().endswith("- **Broken:** a checkpoint is lost")


def test_a_script_that_has_not_ended_or_is_not_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has not ended"):
        stress_table(written(tmp_path, done=False))
    with pytest.raises(ValueError, match="knows"):
        stress_table(written(tmp_path, name="stress-poems"))
