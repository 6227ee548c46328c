"""Two processes for all tests that need them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stacks.ranks import Ranks


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()
