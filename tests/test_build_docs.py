"""What README and docs quote is what `make docs` makes from results/, to the letter."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load() -> Any:
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "scripts" / "build_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_and_figures_are_up_to_date(tmp_path: Path) -> None:
    written = load().build(ROOT, tmp_path)
    assert Path("README.md") in written
    assert Path("docs/figures/split-mnist.svg") in written
    for path in written:
        assert (tmp_path / path).read_text("utf-8") == (ROOT / path).read_text("utf-8"), f"run make docs: {path}"
    # Figures do not parse mathematics: what looks like it would be shown as it is written.
    figures = [path for path in written if path.suffix == ".svg"]
    assert [path for path in figures if "$" in (tmp_path / path).read_text("utf-8")] == []


@pytest.mark.parametrize("name", ["split-cifar", "split-cifar10", "split-cifar10-halves"])
@pytest.mark.parametrize("end", ["", "-seed-1"])
def test_a_result_is_of_one_experiment_though_names_begin_alike(name: str, end: str) -> None:
    assert load()._of(Path("results") / f"{name}{end}.json") == name


def test_each_figure_stands_on_its_page_once() -> None:
    shown = re.findall(r"\]\((figures/.*?)\)", (ROOT / "docs" / "paper.md").read_text("utf-8"))
    assert len(shown) > 10
    assert len(shown) == len(set(shown))


def test_a_quoted_part_that_nobody_writes_is_an_error(tmp_path: Path) -> None:
    module = load()
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text("<!-- poem from results/split-mnist.json -->\n<!-- end -->\n", "utf-8")
    with pytest.raises(ValueError, match="poem"):
        module.build(tmp_path, tmp_path)
