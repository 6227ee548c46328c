"""An outcome is a result of tasks or the findings of a study: read either, and say how it was made."""

from __future__ import annotations

from pathlib import Path

from synaptic_intelligence.document import read_document
from synaptic_intelligence.findings import Findings, read_findings
from synaptic_intelligence.report.wording import study_warnings, warnings
from synaptic_intelligence.result import Result, read_result

Outcome = Result | Findings
"""What an experiment leaves."""


def read_outcome(path: Path) -> Outcome:
    """Read a result file or a findings file, whichever it is.

    Raises:
        ResultError: it is neither, or damaged; the message names the file and the problem.
        OSError: the file cannot be opened.
    """
    value = read_document(path).value
    kind = value.get("format") if isinstance(value, dict) else None
    if kind == "synaptic-intelligence findings":
        return read_findings(path)
    return read_result(path)


def said_of(outcome: Outcome) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    return warnings(outcome) if isinstance(outcome, Result) else study_warnings(outcome)


def made(outcome: Outcome) -> str:
    """Say by which command, in what time and where an outcome was made."""
    where = outcome.environment
    device = f"{where.get('device_name') or where.get('device')}, torch {where.get('torch')}"
    minutes = outcome.wall_seconds / 60
    took = f"{minutes / 60:.1f} hours" if minutes >= 100 else f"{minutes:.1f} minutes"
    if minutes < 2:
        took = f"{outcome.wall_seconds:.1f} seconds"
    sittings = where.get("resumed")
    pauses = f", resumed {len(sittings)} time{'s'[: len(sittings) != 1]}" if isinstance(sittings, list) else ""
    return f"`{outcome.command}`, {took} on {device}{pauses}"
