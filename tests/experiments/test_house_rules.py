"""What holds for every module of the experiments, the command line, the reports and what they stand on."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

from synaptic_intelligence import cli, experiments, metrics, report, result, train

MODULES = [train, metrics, result] + [
    importlib.import_module(f"{package.__name__}.{module.name}")
    for package in (experiments, cli, report)
    for module in pkgutil.iter_modules(package.__path__)
    if module.name != "__main__"
]


def _own(module: ModuleType) -> list[tuple[str, type]]:
    return [pair for pair in inspect.getmembers(module, inspect.isclass) if pair[1].__module__ == module.__name__]


@pytest.mark.parametrize("module", MODULES)
def test_every_class_is_final(module: ModuleType) -> None:
    assert [name for name, kind in _own(module) if not getattr(kind, "__final__", False)] == []


@pytest.mark.parametrize("module", [train, metrics, result])
def test_the_public_names_are_listed_and_sorted(module: ModuleType) -> None:
    defined = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    }
    # Those beside classes and functions are constants and aliases, which know no module.
    assert defined <= set(module.__all__) <= {*defined, "JSON", "SCHEMA_VERSION"}
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize(
    "public", [experiments.Experiment, result.ResultError, result.Result.complete, result.Result.complete_runs]
)
def test_public_names_have_an_example(public: object) -> None:
    assert ">>> " in (inspect.getdoc(public) or "")
