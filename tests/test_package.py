"""The sdist and the wheel, tried in an environment that has only what the wheel declares.

The environment is new and empty. Installing torch into it once more would cost the time and the gigabytes of a
download wherever pip has nothing cached, so the packages that the wheel declares, and those that they declare in
turn, are linked into it one by one from the environment that runs the tests; a package that nobody declares is not
there. pip then installs the wheel without an index, and so proves that what is declared is enough.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import synaptic_intelligence as si

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "synaptic_intelligence"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a new environment in which the wheel is installed."""
    environment = tmp_path_factory.mktemp("fresh")
    venv.create(environment, with_pip=False)
    variables = {"base": str(environment), "platbase": str(environment)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", variables))
    for distribution in _closure(_declared(wheel)):
        _link(distribution, site_packages)
    executables = Path(sysconfig.get_path("scripts", "venv", variables))
    python = executables / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--quiet", wheel, cwd=environment)
    return executables


def _run(*command: str | Path, cwd: Path) -> str:
    # Neither the source tree nor a setting of the developer's may reach into the new environment.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SYNAPTIC_"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _declared(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    return [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]


def _closure(requirements: list[Requirement]) -> list[metadata.Distribution]:
    """The installed packages that fulfil the requirements, and theirs in turn."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(requirement, "") for requirement in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        for wanted in ("", *sorted(requirement.extras)):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                found[name] = metadata.distribution(name)
                waiting += [(Requirement(line), wanted) for line in found[name].requires or []]
    return list(found.values())


def _link(distribution: metadata.Distribution, site_packages: Path) -> None:
    """Link the top-level folders and files of a package, its metadata among them."""
    tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
    assert tops, f"{distribution.name} does not say which files it has"
    for top in tops:
        link = site_packages / top
        if not link.exists():
            link.symlink_to(Path(str(distribution.locate_file(top))))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = {
        str(file.relative_to(PACKAGE.parent))
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names == source
    # What a build back end forgets most easily, named here so that an empty source tree could not pass.
    assert {
        "synaptic_intelligence/py.typed",
        "synaptic_intelligence/data/files/mnist/LICENSE",
        "synaptic_intelligence/data/files/mnist/train-images-idx3-ubyte.gz",
    } <= names
    assert [name for name in names if name.startswith("synaptic_intelligence/report/") and "html" in name] != []


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    assert f"Version: {si.__version__}" in lines
    assert "License-Expression: MIT AND CC-BY-SA-3.0" in lines
    assert {requirement.name for requirement in _declared(wheel) if requirement.marker is None} == {
        "numpy",
        "safetensors",
        "torch",
    }


def test_the_sdist_can_be_tested(built: Path) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for part in ("src/synaptic_intelligence", "tests", "scripts"):
        expected = {
            str(path.relative_to(ROOT))
            for path in (ROOT / part).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert expected - names == set()
    assert {"Makefile", "constraints.txt", "pyproject.toml", "LICENSE", "README.md", "CITATION.cff"} <= names


def test_only_declared_packages_are_there(fresh: Path) -> None:
    listing = _run(sys.executable, "-m", "pip", "--python", fresh / "python", "list", "--format=json", cwd=fresh)
    names = {package["name"].lower() for package in json.loads(listing)}
    assert {"synaptic-intelligence", "torch", "numpy", "safetensors"} <= names
    assert names & {"typer", "rich", "matplotlib", "scipy", "pytest", "hypothesis"} == set()
    _run(sys.executable, "-m", "pip", "--python", fresh / "python", "check", cwd=fresh)


def test_the_installed_package_is_complete(fresh: Path, tmp_path: Path) -> None:
    program = """
import json
from importlib import metadata, resources
import synaptic_intelligence as si
from synaptic_intelligence.data import load_mnist
mnist = load_mnist()
print(json.dumps({
    "file": si.__file__,
    "version": si.__version__,
    "metadata": metadata.version("synaptic-intelligence"),
    "typed": resources.files(si).joinpath("py.typed").is_file(),
    "train": list(mnist.train_inputs.shape),
    "test": list(mnist.test_inputs.shape),
}))
"""
    found = json.loads(_run(fresh / "python", "-W", "error", "-c", program, cwd=tmp_path))
    assert Path(found.pop("file")).is_relative_to(fresh.parent)
    assert found == {
        "version": si.__version__,
        "metadata": si.__version__,
        "typed": True,
        "train": [60000, 784],
        "test": [10000, 784],
    }


def test_synapses_are_saved_and_loaded_there(fresh: Path, tmp_path: Path) -> None:
    program = """
import torch
import synaptic_intelligence as si

def make():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, si.SynapticIntelligence(model.named_parameters(), optimizer, c=1.0, xi=0.1)

model, optimizer, synapses = make()
for _ in range(3):
    optimizer.zero_grad()
    model(torch.ones(4, 3)).square().mean().backward()
    optimizer.step()
synapses.consolidate()
synapses.save("synapses.safetensors")
other, _, restored = make()
other.load_state_dict(model.state_dict())
restored.load("synapses.safetensors")
for name, omega in synapses.omega.items():
    assert omega.sum() > 0 and torch.equal(restored.omega[name], omega)
print("same")
"""
    assert _run(fresh / "python", "-W", "error", "-c", program, cwd=tmp_path) == "same\n"


def test_the_command_without_its_extra_says_how_to_get_it(fresh: Path, tmp_path: Path) -> None:
    done = subprocess.run([fresh / "synaptic", "list"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "synaptic-intelligence[experiments]" in done.stderr
    assert "Traceback" not in done.stderr
