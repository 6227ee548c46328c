"""What README and docs quote is what `make docs` makes from results/, to the letter."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(target: Path) -> list[Path]:
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "scripts" / "build_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written: list[Path] = module.build(ROOT, target)
    return written


def test_pages_and_figures_are_up_to_date(tmp_path: Path) -> None:
    written = build(tmp_path)
    assert Path("README.md") in written
    assert Path("docs/figures/split-mnist.svg") in written
    # PNG bytes depend on the machine's compression library; the SVG of the same drawing does not.
    for path in written:
        if path.suffix != ".png":
            assert (tmp_path / path).read_text("utf-8") == (ROOT / path).read_text("utf-8"), f"run make docs: {path}"
        assert (ROOT / path).is_file()


def test_links_in_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
