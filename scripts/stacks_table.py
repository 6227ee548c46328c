"""What the tests of the training stacks have shown, in tables: from results/stacks.json, which the tests write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# In the order of the page; a stack of the tests that is not here is an error, so that none is forgotten.
STACKS = (
    "plain PyTorch",
    "mixed precision",
    "accumulation and clipping",
    "torch.compile",
    "DDP",
    "FSDP2",
    "distributed checkpoints",
    "Accelerate",
    "Lightning",
    "Hugging Face Trainer",
    "PEFT",
    "Avalanche",
    "refused",
)
_REFUSED = "refused"
_TITLES = {stack: stack.capitalize() for stack in (*STACKS[1:3], "distributed checkpoints", _REFUSED)} | {
    "plain PyTorch": "Plain PyTorch"
}
_EXPONENT = re.compile(r"\b1e (\d+)")
_COMPARES = re.compile("_(bit_for_bit|within_)")


def stacks_table(file: Path) -> str:
    """Return a table for each stack: what each test has shown, in the words of its name and its docstring.

    Raises:
        ValueError: a stack is not known here.
    """
    found = _read(file)
    versions = ", ".join(f"{package} {version}" for package, version in found["packages"].items())
    made = f"Made by `{found['command']}` with {versions}, Python {found['python']}, on a CPU"
    lines = [f"{made}: [`{file.name}`](results/{file.name})."]
    for stack in STACKS:
        lines += [
            "",
            f"### {_TITLES.get(stack, stack)}",
            "",
            "| shown | in other words | outcome |",
            "| :-- | :-- | :-- |",
        ]
        for row in (row for row in found["tests"] if row["stack"] == stack):
            name = _EXPONENT.sub(r"1e-\1", row["test"].removeprefix("test_").replace("_", " "))
            shows = row["shows"].replace("``", "`")
            many = f", {row['variants']} forms" if row["variants"] > 1 else ""
            lines.append(f"| {name} | {shows} | {row['outcome']}{many} |")
    return "\n".join([*lines, ""])


def works_with(file: Path) -> str:
    """Return the line that names the stacks of which every test has passed."""
    tests = _read(file)["tests"]
    shown = [
        stack
        for stack in STACKS
        if stack not in (_REFUSED, "plain PyTorch")
        and any(row["stack"] == stack for row in tests)
        and all(row["outcome"] == "passed" for row in tests if row["stack"] == stack)
    ]
    # Those that compare numbers say by how much they may differ.
    passed = sum(
        row["stack"] in shown and re.search(r"_(bit_for_bit|within_)", row["test"]) is not None for row in tests
    )
    return (
        f"Works with {', '.join(shown[:-1])} and {shown[-1]}: {passed} tests compare them with the plain loop, number "
        "by number ([docs/stacks.md](docs/stacks.md)).\n"
    )


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    other = sorted({row["stack"] for row in found["tests"]} - {*STACKS})
    if other:
        raise ValueError(f"{file}: scripts/stacks_table.py does not know the stacks {other}")
    return found
