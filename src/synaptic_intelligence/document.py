"""JSON documents that are checked as they are read and written, so that an error can say where it is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar, final

from synaptic_intelligence.atomic import replacing

__all__ = ["JSON", "ResultError", "Value", "exact", "read_document", "write_document"]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
"""A value that a JSON file can hold; numbers are finite."""

_Item = TypeVar("_Item")
_DEPTH = 50  # of lists and objects within each other; what this library writes has fewer than ten


def exact(number: float) -> str:
    """Return the shortest text that means this number and no other, as every report of a setting shows it.

    Example:
        >>> exact(1.0), exact(0.1), exact(0.12345678), exact(1e-5)
        ('1', '0.1', '0.12345678', '1e-05')
    """
    return repr(float(number)).removesuffix(".0")


@final
class ResultError(ValueError):
    """A result, or the file that should hold one, is damaged, foreign or of another schema version.

    Example:
        >>> issubclass(ResultError, ValueError)
        True
    """


def read_document(path: Path) -> Value:
    """Read a JSON file, not checked yet.

    Raises:
        ResultError: the file is not JSON; the message names it.
        OSError: the file cannot be opened.
    """
    try:
        return Value(json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_no_duplicates), "", f"{path}: ")
    except (ValueError, RecursionError) as error:
        problem = f"not readable as JSON: {error}. The file is damaged or cut off."
        raise ResultError(f"{path}: {problem}") from error


def write_document(document: dict[str, object], path: Path) -> None:
    """Write a JSON file in one step: a reader sees the old file or the new one, never a half.

    Raises:
        OSError: the folder does not exist, is read-only or is full; the file that was there stays.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")


def _no_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members: dict[str, JSON] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the name {name!r} appears twice")
        members[name] = value
    return members


def _too_deep(value: object) -> bool:
    # Level by level, as what is deeper than Python's stack is what is looked for.
    level = [value]
    for _ in range(_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, list | dict)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, list | dict) for each in level)


def _is_text(text: str) -> bool:
    """Return whether UTF-8 can hold it: JSON can name half of a surrogate pair, which is no character."""
    return not any("\ud800" <= each <= "\udfff" for each in text)


@final
@dataclass(frozen=True)
class Value:
    """A value out of a document, with the path to it, so that an error can say where it is."""

    value: object
    field: str
    file: str

    def fail(self, problem: str) -> NoReturn:
        raise ResultError(f"{self.file}{self.field or 'the document'}: {problem}")

    def string(self) -> str:
        if not isinstance(self.value, str):
            self.fail(f"expected a string, got {_shown(self.value)}")
        if not _is_text(self.value):
            self.fail("expected text, got half of a surrogate pair")
        return self.value

    def integer(self, least: int) -> int:
        # bool is a subclass of int, but `true` is no number in a file.
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.fail(f"expected a whole number, got {_shown(self.value)}")
        if self.value < least:
            self.fail(f"expected {least} or more, got {self.value}")
        return self.value

    def number(self, least: float = 0.0, most: float = math.inf) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail(f"expected a number, got {_shown(self.value)}")
        if isinstance(self.value, float) and not math.isfinite(self.value):
            self.fail(f"expected a finite number, got {_shown(self.value)}")
        if not least <= self.value <= most:
            bounds = f"{least:g} or more" if most == math.inf else f"a number from {least:g} to {most:g}"
            self.fail(f"expected {bounds}, got {self.value}")
        try:
            return float(self.value)
        except OverflowError:
            self.fail("the number is too large")

    def fraction(self) -> float:
        return self.number(most=1.0)

    def correlation(self) -> float:
        return self.number(least=-1.0, most=1.0)

    def items(self, read: Callable[[Value], _Item], length: int | None = None, of: str = "") -> list[_Item]:
        if not isinstance(self.value, list):
            self.fail(f"expected a list, got {_shown(self.value)}")
        if length is not None and len(self.value) != length:
            self.fail(f"expected {length} numbers, one for each {of}, got {len(self.value)}")
        return [read(Value(item, f"{self.field}[{i}]", self.file)) for i, item in enumerate(self.value)]

    def members(self) -> dict[str, Value]:
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, got {_shown(self.value)}")
        for name in self.value:
            if not isinstance(name, str):
                self.fail(f"expected names that are strings, got {_shown(name)}")
            if not _is_text(name):
                self.fail(f"expected names that are text, got half of a surrogate pair in {_shown(name)}")
        dot = "." if self.field else ""
        return {name: Value(value, f"{self.field}{dot}{name}", self.file) for name, value in self.value.items()}

    def record(self, names: tuple[str, ...]) -> dict[str, Value]:
        members = self.members()
        for name in names:
            if name not in members:
                self.fail(f"the field {name!r} is missing")
        for name, member in members.items():
            if name not in names:
                member.fail("unknown field in a file of this schema version")
        return members

    def versioned(self, name: str, schema: int, names: tuple[str, ...]) -> dict[str, Value]:
        """Return the fields ``names`` of a document that says that it is of this format and schema version."""
        value = self.value
        if not isinstance(value, dict) or value.get("format") != name:
            kind = name.partition(" ")[2]
            raise ResultError(f'{self.file}not a {kind} file of synaptic-intelligence (it has no "format": "{name}")')
        if _too_deep(value):
            self.fail(f"more than {_DEPTH} lists and objects within each other")
        found = value.get("schema")
        if found != schema or isinstance(found, bool):
            Value(found, "schema", self.file).fail(
                f"the file has schema version {_shown(found)}, this library reads versions up to {schema}; "
                "read it with the release of synaptic-intelligence that wrote it, or run the experiment again"
            )
        return self.record(("format", "schema", *names))

    def utc(self) -> str:
        text = self.string()
        try:
            offset = datetime.fromisoformat(text).utcoffset()
        except ValueError:
            offset = None
        if offset != timedelta(0):
            self.fail(f"expected an ISO 8601 time in UTC, as 2025-01-31T12:00:00+00:00, got {_shown(text)}")
        return text

    def json(self) -> JSON:
        if self.value is None or isinstance(self.value, bool | int):
            return self.value
        if isinstance(self.value, str):
            return self.string()
        if isinstance(self.value, float):
            if not math.isfinite(self.value):
                self.fail(f"expected a finite number, got {_shown(self.value)}")
            return self.value
        if isinstance(self.value, list):
            return self.items(Value.json)
        if isinstance(self.value, dict):
            return self.json_object()
        self.fail(f"JSON cannot hold {_shown(self.value)}")

    def json_object(self) -> dict[str, JSON]:
        return {name: member.json() for name, member in self.members().items()}


def _shown(value: object) -> str:
    text = (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else repr(value)
    )
    return text if len(text) <= 40 else f"{text[:37]}..."
