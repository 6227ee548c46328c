"""What a study is: a computation of seconds or minutes whose outcome is numbers, and no accuracies of tasks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

from synaptic_intelligence.document import JSON
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.findings import Findings


class StudySettings(Protocol):
    """A frozen dataclass of numbers; every study repeats itself over seeds."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seeds(self) -> int:
        """How often the study is repeated, with the seeds 0, 1, ..."""
        ...


@final
@dataclass(frozen=True)
class Study:
    """One figure or section of the paper that is computed in one go.

    Args:
        name: name on the command line, such as ``quadratic``.
        title: name for people.
        what: what is studied, in half a sentence.
        source: where the paper shows it.
        settings: those that are meant, the defaults.
        quick: settings that take seconds, to see that all works.
        compute: measures, from the settings, the folder of the data (None: where it is by default), and a listener
            that is told in words how far it is.
        seeded: whether it draws random numbers; if not, its settings have one seed, and more would be the same again.

    Example:
        >>> from synaptic_intelligence.experiments import STUDIES
        >>> STUDIES["quadratic"].source
        'section 4'
    """

    name: str
    title: str
    what: str
    source: str
    settings: StudySettings
    quick: StudySettings
    compute: Callable[[Any, Path | None, Callable[[str], None]], Mapping[str, JSON]]
    seeded: bool = True


def run_study(
    study: Study,
    settings: StudySettings,
    data_dir: Path | None,
    threads: int,
    command: str,
    listen: Callable[[str], None],
) -> Findings:
    """Compute a study, and return what it found with how and where that was."""
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    numbers = study.compute(settings, data_dir, listen)
    return Findings(
        experiment=study.name,
        title=study.title,
        settings=settings_as_json(settings),
        deviations=study_deviations(study, settings),
        numbers=dict(numbers),
        environment=describe_environment("cpu", threads, 1),
        command=command,
        started=started,
        wall_seconds=time.monotonic() - began,
    )


def study_deviations(study: Study, settings: StudySettings) -> list[str]:
    """Say in words where ``settings`` leave those that are meant; other seeds stay within them."""
    ours, meant = settings_as_json(settings), settings_as_json(study.settings)
    return [
        f"{name.replace('_', ' ')} {ours[name]} instead of {meant[name]}"
        for name in ours
        if name != "seeds" and ours[name] != meant[name]
    ]


def settings_as_json(settings: StudySettings) -> dict[str, JSON]:
    """Return the settings by name, as the findings hold them."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
