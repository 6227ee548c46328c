"""What is warned of once, and when again."""

from __future__ import annotations

import warnings

import pytest

from synaptic_intelligence.diagnosis.warned import Warned
from synaptic_intelligence.errors import SynapseWarning


def told(judgements: list[str | None]) -> list[bool]:
    """Return for each task whether a warning was given, if so much was judged at its end."""
    warned, given = Warned(), []
    for number, judgement in enumerate(judgements):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if judgement != "not looked for":
                warned.judge("still", None if judgement is None else f"{number} {judgement}")
            warned.judge("other", None)
        warned.end_task()
        given.append(bool(caught))
    return given


def test_what_lasts_is_warned_of_once_and_again_after_a_task_without_it() -> None:
    assert told(["bad", "bad", "bad"]) == [True, False, False]
    assert told(["bad", None, "bad", "bad"]) == [True, False, True, False]
    assert told(["bad", "not looked for", "bad"]) == [True, False, False]


def test_what_comes_and_goes_within_a_task_is_warned_of_once() -> None:
    warned = Warned()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            for message in ("first", None):
                warned.judge("unstable", message)
            warned.end_task()
    assert [str(warning.message) for warning in caught] == ["first"]


def test_a_warning_that_is_an_error_stays_one_until_it_is_mended() -> None:
    warned = Warned()
    for _ in range(2):
        with pytest.raises(SynapseWarning, match="bad"):  # as all warnings are errors here
            warned.judge("still", "bad")
    warned.judge("still", None)
