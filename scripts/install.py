"""Make the environment that `make` works in: `python scripts/install.py .venv`.

Installs the project (editable) with the extras that its tests need, at the versions in constraints.txt.
A torch that the environment already holds is kept if pyproject.toml allows it, so that you can bring a CPU or a CUDA
build of your own. Where packages come from is pip's own configuration. Needs nothing but Python and its venv module.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_EXTRAS = "experiments,cifar,accelerate,lightning,huggingface,dev"

# What every torch with CUDA brings in a version of its own.
_CUDA = ("cuda-", "nvidia-", "triton==")

# Runs in the environment: prints the version of its torch, then the names of all packages that this torch asks for.
_INSPECT_TORCH = """
import re
from importlib import metadata
try:
    print(metadata.version("torch"))
except metadata.PackageNotFoundError:
    raise SystemExit
waiting, seen = ["torch"], set()
while waiting:
    name = waiting.pop()
    if name in seen:
        continue
    seen.add(name)
    try:
        requirements = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        continue
    waiting += [re.match(r"[\\w.-]+", r)[0] for r in requirements if "extra ==" not in r]
print(*sorted(seen - {"torch"}))
"""


def make_environment(environment: Path) -> Path:
    """Return the Python of ``environment``, which is made if it is missing or broken, and has pip."""
    python = environment / "bin" / "python"
    if not _succeeds(python, "-c", "pass"):
        print(f"making {environment} with Python {sys.version.split()[0]} ({sys.executable})", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=False)
        if made.returncode != 0:
            sys.exit(
                f"error: {sys.executable} cannot make environments. Install its venv module (on Debian and Ubuntu "
                "the package python3-venv), or name another Python: make PYTHON=/path/to/python3"
            )
    if not _succeeds(python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"):
        sys.exit(f"error: {environment} has a Python older than 3.11; remove it and run make again")
    if not _succeeds(python, "-m", "pip", "--version") and not _succeeds(python, "-m", "ensurepip"):
        sys.exit(f"error: {environment} has no pip; install it there, or remove the folder and run make again")
    return python


def constraints(python: Path) -> list[str]:
    """Return the lines of constraints.txt, with the torch that is already there in place of the pinned one.

    What a kept torch asks for is left to it: another torch may need another version of it than the pinned one.
    """
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    report = subprocess.run([python, "-c", _INSPECT_TORCH], capture_output=True, text=True, check=True).stdout
    if not report:
        return pins
    installed, *asked_for = report.split()
    public = installed.partition("+")[0]
    if f"torch=={public}" in pins:
        return pins
    if _numbers(installed) < _oldest_torch():
        print(f"the torch {installed} that is installed is too old, and is replaced", flush=True)
        return pins
    print(f"keeping the torch {installed} that is installed", flush=True)
    leave = {"torch", *(_canonical(name) for name in asked_for)}
    others = [pin for pin in pins if pin.partition("==")[0] not in leave and not pin.startswith(_CUDA)]
    return [f"torch=={installed}", *others]


def install(python: Path, pins: list[str]) -> None:
    """Install the project and what it needs at the versions of ``pins``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        # torch first and with pip's progress bar: it may be gigabytes, everything else is small.
        torch = next(pin for pin in pins if pin.startswith("torch=="))
        print(f"installing {torch} (up to several GB the first time)", flush=True)
        _pip(python, file, *([] if sys.stdout.isatty() else ["-qq"]), "torch")
        print("installing the other packages", flush=True)
        # The build tools are installed, and so pinned, like the rest; then the build needs no environment of its own.
        _pip(python, file, "-qq", "hatchling", "editables")
        _pip(python, file, "-qq", "--no-build-isolation", "--editable", f"{ROOT}[{_EXTRAS}]")
        # It asks for torchvision, wandb and more, which its strategies do not use: the tests have stand-ins for them.
        _pip(python, file, "-qq", "--no-deps", "avalanche-lib")


def _pip(python: Path, file: Path, *arguments: str) -> None:
    # -qq: errors alone. pip warns of much that nobody can act on.
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--constraint", str(file)]
    result = subprocess.run([*command, *arguments], check=False)
    if result.returncode != 0:
        sys.exit(f"error: pip could not install {arguments[-1]}; its message is above")


def _succeeds(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def _oldest_torch() -> tuple[int, ...]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bound = next(line for line in project["dependencies"] if line.startswith("torch>="))
    return _numbers(bound.removeprefix("torch>="))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    its_python = make_environment(Path(sys.argv[1]).absolute())
    install(its_python, constraints(its_python))
