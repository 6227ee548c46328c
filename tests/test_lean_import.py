"""Importing the library does nothing but define names: it is light, and leaves the process as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = ["typer", "rich", "matplotlib", "jinja2", "scipy", "datasets", "pyarrow", "PIL", "tqdm"]
LIBRARY = [
    "synaptic_intelligence",
    "synaptic_intelligence.tasks",
    "synaptic_intelligence.data",
    "synaptic_intelligence.train",
    "synaptic_intelligence.metrics",
    "synaptic_intelligence.document",
    "synaptic_intelligence.result",
    "synaptic_intelligence.findings",
]

# torch and numpy are imported first, so that only what the library itself does is seen.
PROBE = """
import hashlib, importlib, json, logging, os, random, signal, sys, warnings
import numpy, safetensors.torch, torch

def state():
    return {
        "working directory": os.getcwd(),
        "environment": sorted(os.environ.items()),
        "root log handlers": [repr(handler) for handler in logging.root.handlers],
        "root log level": logging.root.level,
        "warning filters": [repr(filter) for filter in warnings.filters],
        "interrupt handler": repr(signal.getsignal(signal.SIGINT)),
        "python random state": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "numpy random state": hashlib.sha256(repr(numpy.random.get_state()).encode()).hexdigest(),
        "torch random state": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "torch default dtype": str(torch.get_default_dtype()),
        "torch default device": str(torch.get_default_device()),
        "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "torch gradients": torch.is_grad_enabled(),
        "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch cuda": torch.cuda.is_initialized(),
        "matmul precision": torch.get_float32_matmul_precision(),
    }

before, loaded = state(), set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({"before": before, "after": state(), "modules": sorted(set(sys.modules) - loaded)}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a fresh process is like before and after the library is imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *LIBRARY],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_importing_the_library_imports_no_extra(probe: dict[str, object]) -> None:
    modules = probe["modules"]
    assert isinstance(modules, list)
    assert set(LIBRARY) <= set(modules)
    assert {module.partition(".")[0] for module in modules} & set(EXTRAS) == set()


def test_importing_the_library_imports_no_experiment(probe: dict[str, object]) -> None:
    modules = probe["modules"]
    assert isinstance(modules, list)
    upper = ("synaptic_intelligence.cli", "synaptic_intelligence.experiments", "synaptic_intelligence.report")
    assert [module for module in modules if module.startswith(upper)] == []


def test_importing_the_library_changes_nothing(probe: dict[str, object]) -> None:
    assert probe["after"] == probe["before"]


def test_importing_the_library_writes_no_file(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", "import synaptic_intelligence"], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
