"""The findings file: what a study has measured, with settings and environment, as one JSON file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import final

from synaptic_intelligence.document import JSON, Value, read_document, write_document

__all__ = ["Findings", "read_findings", "write_findings"]

_FORMAT = "synaptic-intelligence findings"
_SCHEMA_VERSION = 1


@final
@dataclass(frozen=True)
class Findings:
    """A study's outcome: numbers by name, where a result of tasks has accuracies.

    Args:
        experiment: name on the command line, such as ``quadratic``.
        title: name for people.
        settings: every setting by name.
        deviations: ways in which this differs from the study as it is meant to be; empty: it is that.
        numbers: what was measured, by name; numbers, lists and objects.
        environment: versions, device, threads and so on, by name.
        command: the command that made this.
        started: when it started, ISO 8601 in UTC.
        wall_seconds: how long it took, seconds.

    Example:
        >>> findings = Findings(
        ...     experiment="quadratic", title="A quadratic loss", settings={}, deviations=[], numbers={"error": 1e-3},
        ...     environment={"torch": "2.13.0"}, command="synaptic run quadratic",
        ...     started="2025-01-31T12:00:00+00:00", wall_seconds=1.0)
        >>> findings.numbers["error"]
        0.001
    """

    experiment: str
    title: str
    settings: dict[str, JSON]
    deviations: list[str]
    numbers: dict[str, JSON]
    environment: dict[str, JSON]
    command: str
    started: str
    wall_seconds: float


def write_findings(findings: Findings, path: Path) -> None:
    """Write findings to a JSON file in one step: a reader sees the old file or the new one, never a half.

    Raises:
        ResultError: a field does not hold what its description says, a NaN for instance; the file that was there stays.
        OSError: the folder does not exist, is read-only or is full; the file that was there stays.

    Example:
        >>> import tempfile
        >>> findings = Findings(
        ...     experiment="quadratic", title="A quadratic loss", settings={}, deviations=[], numbers={"error": 1e-3},
        ...     environment={}, command="synaptic run quadratic", started="2025-01-31T12:00:00+00:00", wall_seconds=1.0)
        >>> path = Path(tempfile.mkdtemp()) / "findings.json"
        >>> write_findings(findings, path)
        >>> read_findings(path) == findings
        True
    """
    document = {"format": _FORMAT, "schema": _SCHEMA_VERSION, **dataclasses.asdict(findings)}
    _findings(Value(document, "", "cannot write these findings: "))
    write_document(document, path)


def read_findings(path: Path) -> Findings:
    """Read a findings file, and check every field of it.

    Raises:
        ResultError: the file is damaged, is no findings file, or has another schema version; the message names the
            file, the field and the problem.
        OSError: the file cannot be opened.

    Example: see :func:`write_findings`.
    """
    return _findings(read_document(path))


def _findings(document: Value) -> Findings:
    field = document.versioned(_FORMAT, _SCHEMA_VERSION, tuple(f.name for f in dataclasses.fields(Findings)))
    return Findings(
        experiment=field["experiment"].string(),
        title=field["title"].string(),
        settings=field["settings"].json_object(),
        deviations=field["deviations"].items(Value.string),
        numbers=field["numbers"].json_object(),
        environment=field["environment"].json_object(),
        command=field["command"].string(),
        started=field["started"].utc(),
        wall_seconds=field["wall_seconds"].number(),
    )
