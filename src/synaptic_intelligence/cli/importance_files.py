"""What ``synaptic inspect`` and ``synaptic merge`` do: show importance files, and make one of several."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from synaptic_intelligence.cli.refusal import refuse
from synaptic_intelligence.errors import SynapseError, SynapseWarning, printable
from synaptic_intelligence.experiments.folder import RefusedError
from synaptic_intelligence.experiments.settings import option
from synaptic_intelligence.inspection import (
    Inspection,
    bars,
    header_lines,
    histogram_cells,
    inspect_importance,
    layer_cells,
    top_cells,
)
from synaptic_intelligence.merging import Missing, merge_importance


def inspect_file(path: Path, top: int, as_json: bool) -> None:
    """Print what an importance file holds."""
    with _refusing():
        found = inspect_importance(path, top=top)
    if as_json:
        print(json.dumps(_plain(asdict(found)), indent=1, allow_nan=False))
        return
    console = _console()
    for line in header_lines(found):
        console.print(_text(line, console))
    for table in _tables(found, console):
        console.print()
        console.print(table)


def merge_files(
    files: list[Path], out: Path, c: list[float] | None, merged_c: float, missing: Missing, overwrite: bool
) -> None:
    """Write one importance file that pulls as several others do together, and say what is in it."""
    with _refusing(), warnings.catch_warnings(record=True) as caught:
        if out.is_dir():
            raise RefusedError(f"{out} is a folder: name a file in it with --out")
        if out.exists() and not overwrite:
            raise RefusedError(f"{out} is there already.", "Replace it with --overwrite, or write elsewhere with --out")
        if not out.parent.is_dir():
            raise RefusedError(f"{out.parent}: there is no such folder")
        warnings.simplefilter("always", SynapseWarning)
        merge_importance(files, out, c=c or None, merged_c=merged_c, missing=missing)
        found = inspect_importance(out, top=0)
    for warning in caught:
        typer.echo(f"synaptic: {printable(str(warning.message))}", err=True)
    console = _console()
    for line in header_lines(found):
        console.print(_text(line, console))
    print(f"merged  {out}")


@contextmanager
def _refusing() -> Iterator[None]:
    """Return a context that ends the command with one line where a file, or what is asked of it, will not do."""
    try:
        yield
    except (OSError, SynapseError, TypeError, ValueError) as error:
        named = isinstance(error, OSError) and error.filename is not None
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and named else str(error)
        refuse(_with_options(printable(said, most=1000)))


def _with_options(message: str) -> str:
    """Return what an error says, with the options of the command where it names arguments."""
    message = re.sub(r"^(merged_c|c|top)(?=( of .*)? must be )", lambda found: option(found[0]), message)
    message = re.sub(r"missing='free'(?= lets it have none there$)", "--missing free", message)
    return re.sub(r"merged_c(?=$|, or larger c$)", "--merged-c", message)


def _console() -> Console:
    console = Console(highlight=False)
    # A file has room for a whole table; rich would break it to 80 columns.
    return console if console.is_terminal else Console(highlight=False, width=160)


def _text(text: str, console: Console) -> Text:
    # Names from a file may have signs that the terminal's encoding lacks.
    return Text(text.encode(console.encoding, "backslashreplace").decode(console.encoding))


def _tables(found: Inspection, console: Console) -> list[Table]:
    bar = "█" if console.encoding.startswith("utf") else "#"
    room = max(min(40, console.width - 30), 10)
    histogram = [[*row, bar * length] for row, length in zip(histogram_cells(found), bars(found, room), strict=True)]
    tables = [_table(layer_cells(found), console), _table(histogram, console, bars=True)]
    return [*tables, _table(top_cells(found), console)] if found.top else tables


def _table(cells: list[list[str]], console: Console, bars: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    names, *rows = cells
    for place, name in enumerate(names):
        left = place == 0 or (bars and place == len(names) - 1)
        # Names are broken where there is no room for them, never figures.
        table.add_column(_text(name, console), justify="left" if left else "right", no_wrap=place > 0, overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell, console) for cell in row))
    return table


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, infinite numbers as text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
