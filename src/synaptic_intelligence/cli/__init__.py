"""The command ``synaptic``."""

from __future__ import annotations

import importlib.util
import sys

_EXTRA = ("typer", "rich", "matplotlib", "jinja2", "scipy")


def main() -> None:
    """Run the command line, or say what to install where the packages that it needs are missing."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"synaptic: the command line needs {', '.join(missing)}, not installed here. Install it with\n"
            '    pip install "synaptic-intelligence[experiments]"'
        )
    try:
        # Not before the check; and not again in each worker process, which imports the module that holds `main`.
        from synaptic_intelligence.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
