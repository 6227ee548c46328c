"""Wrong input: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer


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
        refuse(str(error))


def sentence(error: Exception) -> str:
    """Return what an error says, with a full stop, so that another sentence may follow."""
    return f"{str(error).removesuffix('.')}."
