"""Findings of importance-measures that no study has made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from made_up import measures

from synaptic_intelligence.findings import Findings


@pytest.fixture
def made_up_measures() -> Callable[..., Findings]:
    return measures
