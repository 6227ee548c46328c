"""Make what README and docs quote from results/ again: `python scripts/build_docs.py`, or `make docs`.

A quoted part stands between `<!-- NAME from results/FILE.json -->` and `<!-- end -->`; NAME says which of the functions
below writes it. Figures go to docs/figures/. tests/test_docs.py fails if any of it is not what this makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from synaptic_intelligence.report import markdown_table, save_figure
from synaptic_intelligence.result import Result, read_result

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md",)
_PART = re.compile(r"(<!-- (\w+) from (results/[\w.-]+\.json) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def table(result: Result, name: str) -> str:
    """Return the table of a result, and how it was made."""
    cores = result.environment.get("cpu_count")
    device, torch = result.environment.get("device"), result.environment.get("torch")
    made = f"Made by `{result.command}` in {result.wall_seconds / 60:.1f} minutes"
    where = f"on {cores} cores ({device}, torch {torch})"
    return f"{markdown_table(result)}\n{made} {where}: [`results/{name}.json`](results/{name}.json).\n"


def figure(result: Result, name: str) -> str:
    """Return the link to the figure of a result."""
    return f"![{result.title}: accuracy on each task as more tasks are learnt](docs/figures/{name}.svg)\n"


WRITERS: dict[str, Callable[[Result, str], str]] = {"table": table, "figure": figure}


def build(source: Path, target: Path) -> list[Path]:
    """Write all pages and figures of the project at ``source`` to ``target``; return their paths below it."""
    written: list[Path] = []
    figures = Path("docs/figures")
    (target / figures).mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        text = (source / page).read_text("utf-8")
        for _, writer, file, _ in _PART.findall(text):
            if writer == "figure":
                paths = save_figure(read_result(source / file), target / figures, Path(file).stem)
                written += [path.relative_to(target) for path in paths]
        renewed = _PART.sub(lambda m: m[1] + WRITERS[m[2]](read_result(source / m[3]), Path(m[3]).stem) + m[4], text)
        (target / page).write_text(renewed, "utf-8")
        written.append(Path(page))
    return written


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    for path in build(ROOT, ROOT):
        print(path)
