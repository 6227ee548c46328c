"""What holds for every test: the same random numbers and one thread, however the tests are run."""

from __future__ import annotations

import os
import random

import hypothesis
import pytest
import torch

# The same examples on every machine, and no deadline: a shared machine is sometimes slow, and that is no failure.
hypothesis.settings.register_profile("same-everywhere", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same-everywhere")

torch.set_num_threads(1)

# The user's own data is no part of a test. SYNAPTIC_TEST_DATA_DIR says where the real CIFAR lies.
os.environ.pop("SYNAPTIC_DATA_DIR", None)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    torch.manual_seed(0)
