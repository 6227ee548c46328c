"""Wrong input: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from synaptic_intelligence.experiments.settings import Settings, option


def refuse(reason: str) -> NoReturn:
    """End the command: what was asked for cannot be done."""
    typer.echo(f"synaptic: {reason}", err=True)
    raise typer.Exit(2)


def fail(reason: str) -> NoReturn:
    """End the command: what was asked for went wrong on the way."""
    typer.echo(f"synaptic: {reason}", err=True)
    raise typer.Exit(1)


def stop(what_is_kept: str) -> NoReturn:
    """End the command: the user has stopped it."""
    typer.echo(f"synaptic: stopped. {what_is_kept}", err=True)
    raise typer.Exit(130)


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """Return a context that ends the command where one of ``errors`` is raised, with its message."""
    try:
        yield
    except errors as error:
        refuse(_said(error))


@contextmanager
def refusing_settings() -> Iterator[None]:
    """Return a context that ends the command where a setting makes no sense, and names the option that gave it."""
    try:
        yield
    except ValueError as error:
        # Such a message begins with the setting's name.
        name = re.split(r"\W", str(error), maxsplit=1)[0]
        known = name in Settings.__dataclass_fields__
        refuse(f"{option(name)}{str(error).removeprefix(name)}" if known else str(error))


def sentence(error: Exception) -> str:
    """Return what an error says, with a full stop, so that another sentence may follow."""
    return f"{_said(error).removesuffix('.')}."


def _said(error: Exception) -> str:
    # Without the number that Python puts first.
    named = isinstance(error, OSError) and error.filename is not None and error.strerror is not None
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and named else str(error)
