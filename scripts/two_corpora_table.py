"""The tables and the figure of examples/two_corpora: `python scripts/two_corpora_table.py runs/two-corpora.json`.

It prints the tables, and draws the figure beside the file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synaptic_intelligence.document import exact
from synaptic_intelligence.drawing.style import STYLE, footer_height, inscribe, svg_text
from synaptic_intelligence.report.statistics import Estimate, mean_and_interval
from synaptic_intelligence.report.wording import seeds_shown

BASE, FIRST, SECOND = "wordnet", "bible", "fortunes"
KINDS = {"full": "in full", "lora": "LoRA"}
TITLES = {BASE: "WordNet (base)", FIRST: "King James Bible (task A)", SECOND: "fortunes (task B)"}
_WITHOUT, _WITH, _JOINT = "#D55E00", "#0072B2", "#1A1A1A"

Row = dict[str, Any]
Found = dict[str, Any]


def forgotten_table(file: Path) -> str:
    """Return the link to the figure, and what each arm forgot of task A, kept of it and learnt of task B."""
    found = read(file)
    lines = _header(["seeds", "A after A", "A after B", "forgotten of A", "kept by synapses", "B after B", "cost on B"])
    for kind, c in _arms(found):
        rows = _rows(found, "second", kind, c)
        columns: list[list[str]] = [[
            str(_over(_first_loss(found, row, FIRST) for row in rows)),
            str(_over(row["loss"][FIRST] for row in rows)),
            str(_over(forgotten(found, row) for row in rows)),
        ]]  # fmt: skip
        kept, cost = "", ""
        if c:
            pairs = [(row, without(found, row)) for row in rows]
            lost = [(forgotten(found, row), forgotten(found, other)) for row, other in pairs]
            # A share of nothing is no number.
            kept = (
                _percent(_over(1 - held / all_of_it for held, all_of_it in lost))
                if min(all_of_it for _, all_of_it in lost) > 0
                else ""
            )
            cost = str(_over(row["loss"][SECOND] - other["loss"][SECOND] for row, other in pairs))
        cells = [*columns[0], kept, str(_over(row["loss"][SECOND] for row in rows)), cost]
        lines.append(f"| {arm_name(kind, c)} | {len(rows)} | " + " | ".join(cells) + " |")
    for kind, name in KINDS.items():
        rows = _rows(found, "joint", kind)
        if rows:
            a, b = (_over(row["loss"][task] for row in rows) for task in (FIRST, SECOND))
            lines.append(f"| {name}, A and B at once | {len(rows)} |  | {a} |  |  | {b} |  |")
    told = (
        f"Test loss in nats per token; before task A it was {_base(found, FIRST)} on A and "
        f"{_base(found, SECOND)} on B. Kept: the share of what is forgotten without synapses. "
        "Cost: beyond the loss without them, seed by seed."
    )
    link = f"![Loss on both corpora as they are learnt one after the other](docs/figures/{file.stem}.svg)"
    return "\n".join([link, "", *lines, "", f"{told} {_intervals(found)}{_made(file, found)}", ""])


def language_table(file: Path) -> str:
    """Return the same losses as perplexities and as bits per byte, and what is left of the base's corpus."""
    found = read(file)
    lines = _header(["perplexity on A", "on B", "bits per byte on A", "on B", "loss on the base's corpus"])
    stages: list[tuple[str, str | None, float | None, str]] = [("base", None, None, "base")]
    stages += [("first", kind, None, f"{name}, after A") for kind, name in KINDS.items()]
    stages += [("second", kind, c, f"{arm_name(kind, c)}, after B") for kind, c in _arms(found)]
    for stage, kind, c, name in stages:
        rows = _rows(found, stage, kind, c)
        if not rows:
            continue
        perplexities = [_plain(_over(math.exp(row["loss"][task]) for row in rows), 1) for task in (FIRST, SECOND)]
        bits = [
            _plain(
                _over(row["loss"][task] * found["corpora"][task]["tokens_per_byte"] / math.log(2) for row in rows), 3
            )
            for task in (FIRST, SECOND)
        ]
        lines.append(
            f"| {name} | " + " | ".join([*perplexities, *bits, str(_over(r["loss"][BASE] for r in rows))]) + " |"
        )
    return "\n".join([*lines, "", _short(found).strip(), ""])


def price_table(file: Path) -> str:
    """Return the time of a step with synapses over that without, and the memory that they take."""
    found = read(file)
    columns = [
        "ms for a step, without",
        "with synapses",
        "times as long",
        "parameters trained",
        "synapses",
        "the model",
    ]
    lines = _header(columns)
    for kind, name in KINDS.items():
        rows = _rows(found, "cost", kind)
        if not rows:
            continue
        times = [row["step_seconds"] for row in rows]
        without_ms, with_ms = (_plain(_over(1000 * t[form] for t in times), 1) for form in ("without", "with"))
        ratio = _over(t["with"] / t["without"] for t in times)
        memory = [f"{rows[0][part] / 1e6:.1f} MB" for part in ("synapses_bytes", "model_bytes")]
        count = f"{rows[0]['protected_parameters']:,}".replace(",", " ")
        lines.append(f"| {name} | " + " | ".join([without_ms, with_ms, str(ratio), count, *memory]) + " |")
    timed, batch = found["protocol"]["timed"], found["protocol"]["batch"]
    told = (
        f"Whole steps of task B on {batch} rows of {found['protocol']['context']} tokens, the time of the processor: "
        f"medians of {timed} steps with and {timed} without, in turns. The memory of the synapses is what they hold "
        "between steps."
    )
    return "\n".join([*lines, "", f"{told} {_short(found)}".strip(), ""])


def corpora_table(file: Path) -> str:
    """Return what the corpora are."""
    found = read(file)
    lines = _header(["sentences to train on", "to choose c by", "to test on", "tokens to train on", "sha256"])
    for name, corpus in found["corpora"].items():
        sizes = [str(corpus["sentences"][part]) for part in ("train", "validation", "test")]
        lines.append(
            f"| {TITLES[name]} | {' | '.join(sizes)} | {corpus['tokens']['train']} | `{corpus['sha256'][:12]}` |"
        )
    return "\n".join([*lines, "", _short(found).strip(), ""])


def search_table(file: Path) -> str:
    """Return the search for c: the losses on validation sentences for each strength, the chosen one in bold."""
    found = read(file)
    best = chosen(found)
    lines = _header(["A after A", "A after B", "B after B", "mean of A and B after B"])
    for kind, c in _arms(found):
        (row,) = _rows(found, "second", kind, c)
        cells = [_first_loss(found, row, FIRST), row["loss"][FIRST], row["loss"][SECOND], _mean_loss(row)]
        name = f"**{arm_name(kind, c)}**" if best[kind] == c else arm_name(kind, c)
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    moved = {kind: _rows(found, "first", kind)[0]["squared_movement"] for kind in best}
    movement = ", ".join(f"{KINDS[kind]} {value:.1e}" for kind, value in moved.items())
    told = (
        f"One seed of its own, so no interval; {found['protocol']['epochs'][SECOND]} epoch of B. Mean squared movement "
        f"of a parameter in task A: {movement}; xi is {exact(found['protocol']['xi'])}."
    )
    return "\n".join([*lines, "", f"{told}{_made(file, found)}", ""])


def chosen(found: Found) -> dict[str, float]:
    """Return for each kind the strength whose losses on A and B, after B, have the least mean."""
    best: dict[str, float] = {}
    for kind in KINDS:
        rows = [row for row in _rows(found, "second", kind) if row["c"]]
        if rows:
            best[kind] = float(min(rows, key=_mean_loss)["c"])
    return best


def draw_two_corpora(found: Found) -> Figure:
    """Draw the test loss on A and on B before, between and after the two tasks, in full and with LoRA."""
    said = [_short(found).strip()] if _short(found) else []
    with matplotlib.rc_context(fname=STYLE):
        bottom = 0.5 + footer_height(said)
        height = 1.3 + 2.3 + bottom
        figure = Figure(figsize=(9.0, height))
        figure.subplots_adjust(0.06, bottom / height, 0.97, 1 - 1.3 / height, wspace=0.12)
        panels = figure.subplots(1, 4, sharex=True, sharey=True)
        kinds = [(kind, task) for kind in KINDS for task in (FIRST, SECOND)]
        for ax, (kind, task) in zip(panels, kinds, strict=True):
            _panel(ax, found, kind, task)
        panels[0].set_ylabel("test loss, nats per token")
        seeds = seeds_shown(len({row["seed"] for row in found["rows"] if row["stage"] == "second"}))
        told = f"A small GPT-2 learns the King James Bible, then fortunes. {_intervals(found)} {seeds.capitalize()}."
        inscribe(figure, "One corpus, and then another", told, said)
        handles = [panels[0].plot([], [], style, color=shade)[0] for style, shade in _STYLES.values()]
        figure.legend(handles, [*_STYLES], loc="upper left", bbox_to_anchor=(0.01, 1 - 0.55 / height), ncols=3)
    return figure


_STYLES = {
    "without synapses": ("o-", _WITHOUT),
    "with synapses": ("s-", _WITH),
    "both corpora at once": ("--", _JOINT),
}


def _panel(ax: Axes, found: Found, kind: str, task: str) -> None:
    for aside, c in zip((-0.04, 0.04), (0.0, found["protocol"]["c"][kind]), strict=True):
        style, shade = _STYLES["with synapses" if c else "without synapses"]
        stages = [_rows(found, "base"), _rows(found, "first", kind), _rows(found, "second", kind, c)]
        known = [_over(row["loss"][task] for row in rows) for rows in stages if rows]
        widths = [estimate.half_width or 0.0 for estimate in known]
        places = [i + aside for i in range(len(known))]
        ax.errorbar(places, [e.mean for e in known], widths, fmt=style, color=shade, markersize=4, capsize=2)
    joint = _rows(found, "joint", kind)
    if joint:
        ax.axhline(_over(row["loss"][task] for row in joint).mean, linestyle="--", color=_JOINT, linewidth=1)
    ax.set_xticks(range(3), ["base", "after A", "after B"])
    ax.set_title(f"{KINDS[kind]}: on {'A, the Bible' if task == FIRST else 'B, fortunes'}", size=9, pad=6)


# The numbers.


def read(file: Path) -> Found:
    """Read the file of `run.py`."""
    found: Found = json.loads(file.read_text("utf-8"))
    return found


def forgotten(found: Found, row: Row) -> float:
    """Return by how much task B has raised the loss on task A."""
    return float(row["loss"][FIRST]) - _first_loss(found, row, FIRST)


def without(found: Found, row: Row) -> Row:
    """Return the arm without synapses beside this one."""
    (other,) = (other for other in _rows(found, "second", row["kind"], 0.0) if other["seed"] == row["seed"])
    return other


def arm_name(kind: str, c: float | None) -> str:
    """Return the name of an arm."""
    return f"{KINDS[kind]}, {f'c = {exact(c)}' if c else 'without synapses'}"


def _rows(found: Found, stage: str, kind: str | None = None, c: float | None = None) -> list[Row]:
    rows = [row for row in found["rows"] if row["stage"] == stage and (kind is None or row["kind"] == kind)]
    return [row for row in rows if c is None or row["c"] == c]


def _arms(found: Found) -> list[tuple[str, float]]:
    return sorted({(row["kind"], row["c"]) for row in _rows(found, "second")})


def _first_loss(found: Found, row: Row, task: str) -> float:
    (before,) = (other for other in _rows(found, "first", row["kind"]) if other["seed"] == row["seed"])
    return float(before["loss"][task])


def _mean_loss(row: Row) -> float:
    return float(row["loss"][FIRST] + row["loss"][SECOND]) / 2


def _base(found: Found, task: str) -> Estimate:
    return _over(row["loss"][task] for row in _rows(found, "base"))


def _over(values: Iterable[float]) -> Estimate:
    return mean_and_interval([*values])


# The words.


def _header(columns: list[str]) -> list[str]:
    return ["| | " + " | ".join(columns) + " |", "| :-- |" + " --: |" * len(columns)]


def _plain(estimate: Estimate, digits: int) -> str:
    interval = "" if estimate.half_width is None else f" ± {estimate.half_width:.{digits}f}"
    return f"{estimate.mean:z.{digits}f}{interval}"


def _percent(estimate: Estimate) -> str:
    return f"{_plain(Estimate(100 * estimate.mean, estimate.half_width and 100 * estimate.half_width), 0)} %"


def _intervals(found: Found) -> str:
    seeds = {row["seed"] for row in _rows(found, "second")}
    return "One seed, so no interval." if len(seeds) < 2 else "Mean and 95 % interval (Student's t) over the seeds."


def _short(found: Found) -> str:
    return (
        " **A tiny form of the run, to see that it works: its numbers mean nothing.**"
        if found["form"] == "quick"
        else ""
    )


def _made(file: Path, found: Found) -> str:
    environment = found["environment"]
    minutes = f"{found['processor_seconds'] / 60:.0f} minutes of one core"
    where = f"({environment['device_name']}, torch {environment['torch']})"
    made = f"Made by `{found['command']}` in {minutes} {where}: [`results/{file.name}`](results/{file.name})."
    return f"{_short(found)}\n\n{made}"


PARTS: dict[str, Callable[[Path], str]] = {
    "forgotten": forgotten_table,
    "language": language_table,
    "price": price_table,
    "corpora": corpora_table,
    "strengths": search_table,
}

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    given = Path(sys.argv[1])
    made = read(given)
    if made["form"] == "search":
        print(search_table(given))
    else:
        for part in ("corpora", "forgotten", "language", "price"):
            print(PARTS[part](given))
        given.with_suffix(".svg").write_text(svg_text(draw_two_corpora(made)), "utf-8")
