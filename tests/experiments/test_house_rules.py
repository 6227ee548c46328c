"""What holds for every module of the experiments, the command line, the reports and what they stand on."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

from synaptic_intelligence import cli, data, document, experiments, findings, metrics, paper, report, result, train

SINGLE = [train, metrics, document, result, findings]
MODULES = SINGLE + [
    importlib.import_module(f"{package.__name__}.{module.name}")
    for package in (data, experiments, cli, report, paper)
    for module in pkgutil.iter_modules(package.__path__)
    if module.name != "__main__"
]


def _own(module: ModuleType) -> list[tuple[str, type]]:
    return [pair for pair in inspect.getmembers(module, inspect.isclass) if pair[1].__module__ == module.__name__]


@pytest.mark.parametrize("module", MODULES)
def test_every_class_is_an_interface_or_final(module: ModuleType) -> None:
    concrete = [(name, kind) for name, kind in _own(module) if not getattr(kind, "_is_protocol", False)]
    assert [name for name, kind in concrete if not getattr(kind, "__final__", False)] == []


@pytest.mark.parametrize("module", SINGLE)
def test_the_public_names_are_listed_once(module: ModuleType) -> None:
    defined = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    }
    # Those beside classes and functions are constants and aliases, which know no module.
    constants = {document: {"JSON"}, result: {"APART", "AT_ONCE", "SCHEMA_VERSION"}}
    assert set(module.__all__) == defined | constants.get(module, set())
    assert list(module.__all__) == sorted(set(module.__all__))


@pytest.mark.parametrize(
    "public",
    [
        experiments.Experiment,
        document.ResultError,
        document.exact,
        result.Run.stages,
        result.Result.complete,
        result.Result.complete_runs,
        findings.Findings,
        findings.write_findings,
        data.load_mnist,
        data.load_cifar10,
        data.load_cifar100,
        data.DataError,
    ],
)
def test_public_names_have_an_example(public: object) -> None:
    assert ">>> " in (inspect.getdoc(public) or "")
