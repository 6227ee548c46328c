"""What the command `synaptic` gives."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from synaptic_intelligence.cli.app import app


class Outcome:
    """The exit code, and what was printed; exceptions come through."""

    def __init__(self, *words: str | Path) -> None:
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.code, self.out, self.error = done.exit_code, done.stdout, done.stderr
