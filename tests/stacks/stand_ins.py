"""Stand-ins for packages that avalanche-lib imports at the top of its files and that nothing here uses.

Avalanche imports as a whole, with loggers, data sets and pretrained models, so it needs torchvision, wandb and more to
be imported at all. ``python tests/stacks/stand_ins.py SCRIPT`` runs a script that imports it.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, final

PACKAGES = {"torchvision", "pytorchcv", "wandb", "gdown", "GPUtil", "qpsolvers"}
TENSORBOARD = "torch.utils.tensorboard"  # which torch has, and which cannot be imported without tensorboard


@final
class StandIn(ModuleType):
    """A module in which every name is an empty class."""

    __path__: list[str] = []  # so that it may have submodules  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return "0"
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


@final
class _Finder(MetaPathFinder, Loader):
    """Finds stand-ins for what no finder before it has found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in PACKAGES:
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def stand_ins() -> Iterator[None]:
    """Return a context in which what is not installed can be imported; afterwards it is not there again.

    What was imported in it keeps the stand-ins.
    """
    import_module("torchmetrics")  # it asks whether torchvision is there, and must not find a stand-in
    finder = _Finder()
    sys.meta_path.append(finder)
    if find_spec("tensorboard") is None:
        sys.modules[TENSORBOARD] = StandIn(TENSORBOARD)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, StandIn):
                del sys.modules[name]


if __name__ == "__main__":
    with stand_ins():
        runpy.run_path(sys.argv[1], run_name="__main__")
