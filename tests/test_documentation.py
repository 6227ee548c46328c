"""What the documents say can be done: their Python runs, their links lead somewhere.

Doctests of docstrings are collected by pytest itself (``--doctest-modules``). The ``python`` blocks of one document
run in order in one namespace; what a block needs but a reader does not, can stand before it in an HTML comment.
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)|(?:src|href)=\"([^\"#]+)\"")


def _identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks(document: Path) -> list[tuple[int, str]]:
    """The line and the text of each Python block."""
    text = document.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in BLOCK.finditer(text)]


WITH_PYTHON = [document for document in DOCUMENTS if _blocks(document)]


def test_the_readme_shows_python() -> None:
    assert ROOT / "README.md" in WITH_PYTHON


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("document", WITH_PYTHON, ids=_identify)
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for line, text in _blocks(document):
        if text.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(text, names, document.name, str(document), line)
            doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
            names.update(test.globs)
        else:
            # Empty lines in front give the block its own line numbers in a traceback.
            exec(compile("\n" * line + text, str(document), "exec"), names)


WATCHED = """
import gc, sys, weakref
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

models, init, destroy = [], DistributedDataParallel.__init__, dist.destroy_process_group

def made(model, *args):
    models.append(weakref.ref(model))
    init(model, *args)

def destroyed():
    print("before its group", [model() is None for model in models])
    destroy()

DistributedDataParallel.__init__, dist.destroy_process_group = made, destroyed
gc.disable()  # as some do who train: the collector does not come by chance
exec(sys.stdin.read(), {"__name__": "__main__"})
"""


def test_the_model_of_ddp_is_gone_before_its_group() -> None:
    """Else torch may wait for ever, and so would whoever copies the example.

    In a process of its own, as only the first such model of a process needs the collector.
    """
    (document,) = (each for each in WITH_PYTHON if each.name == "distributed.md")
    (_, example), *_ = _blocks(document)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], input=example, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "before its group [True]\n"), done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=_identify)
def test_relative_links_lead_to_files(document: Path) -> None:
    links = [first or second for first, second in LINK.findall(document.read_text(encoding="utf-8"))]
    relative = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in relative if not (document.parent / link).exists()] == []
