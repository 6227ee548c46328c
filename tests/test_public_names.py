"""Only the names in ``__all__`` are public, and every one of them is documented with an example."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

import synaptic_intelligence as si
import synaptic_intelligence.data
import synaptic_intelligence.tasks

PACKAGES = [synaptic_intelligence, synaptic_intelligence.tasks, synaptic_intelligence.data]
DEFINITIONS = [
    pytest.param(getattr(package, name), id=f"{package.__name__}.{name}")
    for package in PACKAGES
    for name in package.__all__
    if inspect.isclass(getattr(package, name)) or inspect.isroutine(getattr(package, name))
]


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_without_repetition(package: ModuleType) -> None:
    assert list(package.__all__) == sorted(set(package.__all__))


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_what_the_package_shows(package: ModuleType) -> None:
    # Submodules appear in the namespace as soon as somebody imports them; they are public only where __all__ says so.
    shown = {
        name for name, value in vars(package).items() if not (name.startswith("_") or isinstance(value, ModuleType))
    }
    listed = {
        name for name in package.__all__ if not (name.startswith("_") or isinstance(getattr(package, name), ModuleType))
    }
    assert shown == listed


def test_the_version_is_public() -> None:
    assert "__version__" in si.__all__


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_begins_with_a_sentence_and_has_an_example(definition: type) -> None:
    documentation = inspect.getdoc(definition) or ""
    assert documentation.partition("\n\n")[0].endswith(".")
    assert ">>> " in documentation


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_its_public_members_are_documented(definition: type) -> None:
    members = vars(definition) if inspect.isclass(definition) else {}
    without = [
        member
        for member, value in members.items()
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
        and not inspect.getdoc(value)
    ]
    assert without == []


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_its_home_is_in_the_package(definition: type) -> None:
    # A name whose home is elsewhere was imported to be used, not to be offered.
    assert definition.__module__.startswith("synaptic_intelligence")
