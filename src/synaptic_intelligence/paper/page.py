"""The page on which the paper's figures and numbers stand beside ours, in Markdown with SVG figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, final

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.drawing.style import svg_text
from synaptic_intelligence.experiments import EXPERIMENTS
from synaptic_intelligence.experiments.importance_measures import IMPORTANCE_MEASURES
from synaptic_intelligence.experiments.job import SGD_LR
from synaptic_intelligence.experiments.optimizers import step_length
from synaptic_intelligence.experiments.permuted_mnist import PERMUTED_MNIST
from synaptic_intelligence.experiments.study import Study
from synaptic_intelligence.paper.outcome import Outcome, made, protocol_said, read_outcome, said_of
from synaptic_intelligence.paper.row import NOT_RUN, Row, accuracy_rows, is_comparable, markdown_rows, paired_rows
from synaptic_intelligence.paper.search import WITHIN, draw_search, said_of_search, search_rows
from synaptic_intelligence.paper.training import training_table
from synaptic_intelligence.report.statistics import summarize
from synaptic_intelligence.report.table import markdown_table
from synaptic_intelligence.report.wording import method_name
from synaptic_intelligence.result import Result


@final
@dataclass(frozen=True)
class Section:
    """How one experiment is shown; the words around it stand in the page's template.

    Args:
        place: in the paper.
        draw: makes the figure of an outcome.
        rows: gives the lines of the comparison.
        runs_of: the experiment whose runs serve as well, where there are none of its own.
        training: whether the accuracies on training images have a table too.
    """

    place: str
    draw: Callable[[Any], Figure]
    rows: Callable[[Any], list[Row]]
    runs_of: str | None = None
    training: bool = False


def write_paper(
    sections: Mapping[str, Section],
    found: Mapping[str, list[Path]],
    folder: Path,
    *,
    results: str,
    quick: bool = False,
    ours: bool = False,
) -> list[Path]:
    """Write ``paper.md`` and its figures into ``folder``, and return their paths.

    Args:
        sections: by experiment, in their order on the page.
        found: the outcome files of each experiment, the main one first.
        folder: where to; figures go to its folder ``figures``.
        results: what comes before a file's name in a link, such as ``../results/``.
        quick: whether these are the quick forms, which show that all works and nothing else.
        ours: whether these are the project's own results, of which the page then says in words what they show.

    Raises:
        ResultError: a file is damaged.
        OSError: a file cannot be read or written.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    outcomes = {name: [(path, read_outcome(path)) for path in paths] for name, paths in found.items()}
    for name, section in sections.items():
        if section.runs_of and not outcomes.get(name):
            outcomes[name] = outcomes.get(section.runs_of, [])[:1]
    written: list[Path] = []

    def shown(name: str) -> str:
        def drawn(figure: Figure, stem: str) -> str:
            path = Path("figures") / f"{stem}.svg"
            _write(folder / path, svg_text(figure))
            written.append(folder / path)
            return path.as_posix()

        parts: list[str] = []
        search: list[tuple[Path, Result]] = []
        for path, outcome in outcomes.get(name, []):
            if isinstance(outcome, Result) and path.stem.startswith(f"{name}-search"):
                search.append((path, outcome))
                continue
            main = outcomes[name][0][1]
            figure = drawn(sections[name].draw(_named(outcome, main)), _stem(name, path))
            parts.append(_shown(sections[name], path, outcome, None if outcome is main else main, figure, results))
        if search:
            figure = drawn(draw_search([outcome for _, outcome in search]), f"{name}-search")
            parts.append(_shown_search(search, figure, results))
        command = f"synaptic run {name}" if ours else f"synaptic reproduce --only {name}"
        return "\n".join(parts) or f"**Not run yet:** `{command}`.\n"

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = files("synaptic_intelligence.paper").joinpath("page.md.jinja").read_text("utf-8")
    page = environment.from_string(template).render(
        overview=lambda: _overview(sections, outcomes),
        shown=shown,
        not_run=lambda name: _not_run(name, outcomes.get(name, [])),
        quick=quick,
        ours=ours,
        fisher_images=PERMUTED_MNIST.paper.fisher_images,
        sgd_lr=SGD_LR,
        within=WITHIN,
        first_step=step_length(1),
        measured=_settings_of(IMPORTANCE_MEASURES, outcomes),
        longest_step=max(map(step_length, range(1, 1000))),
        hundredth_step=step_length(100),
    )
    _write(folder / "paper.md", page)
    return [folder / "paper.md", *written]


def _settings_of(study: Study, outcomes: Mapping[str, list[tuple[Path, Outcome]]]) -> Mapping[str, Any]:
    """Return the settings of a study's outcome; those that are meant where there is none, or it is older than one."""
    found = outcomes.get(study.name)
    return {**vars(study.settings), **(found[0][1].settings if found else {})}


def _overview(sections: Mapping[str, Section], outcomes: Mapping[str, list[tuple[Path, Outcome]]]) -> str:
    lines = ["| | | expected | ours | outside by | how |", "| :-- | :-- | --: | --: | --: | :-- |"]
    for name, section in sections.items():
        main = outcomes.get(name, [])[:1]
        if not main:
            lines.append(f"| {section.place} | {name}: not run yet | | | | |")
        for _, outcome in main:
            how = _how(outcome)
            rows = section.rows(outcome)
            for number, row in enumerate(_foremost(rows)):
                place, of_ours = "" if number else section.place, "" if row.ours == NOT_RUN else how
                cells = [place, row.what, row.expected, row.ours, row.difference, of_ours]
                lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _not_run(name: str, found: list[tuple[Path, Outcome]]) -> list[str]:
    """Return the methods of the protocol that the main result has no complete run of, if there is a main result."""
    if not found:
        return []
    _, main = found[0]
    assert isinstance(main, Result)
    done = {(run.method, run.c) for run in main.complete_runs}
    methods = [(method.name, method.c) for method in EXPERIMENTS[name].paper.methods]
    return [method_name(*method) for method in methods if method not in done]


def _foremost(rows: list[Row]) -> list[Row]:
    """Return what a number is expected for, and all accuracies on test images; the rest is told in its section."""
    return [row for row in rows if row.expected != "-" or row.what.startswith("average accuracy")] or rows[:1]


def _how(outcome: Outcome) -> str:
    """Say in a few words how an outcome stands to what is meant; its section has the rest."""
    if not isinstance(outcome, Result):
        return "not the study as it is meant" if outcome.deviations else "the study as it is meant"
    how = "not the paper's protocol" if outcome.deviations else "the protocol's settings"
    meant = EXPERIMENTS[outcome.experiment].paper.seeds if outcome.experiment in EXPERIMENTS else 0
    seeds = min((summary.seeds for summary in summarize(outcome)), default=0)
    if seeds < meant:
        how += f", {seeds} of {meant} seeds"
    return how if outcome.complete else f"{how}, {len(outcome.complete_runs)} of {outcome.planned_runs} runs"


def _rows(section: Section, outcome: Outcome, main: Outcome | None) -> list[Row]:
    """Return the lines of the comparison; beside a main result, how what is comparable differs from it, too."""
    if main is None or section.rows is not accuracy_rows:
        return section.rows(outcome)
    assert isinstance(outcome, Result)
    paired = paired_rows(outcome, main) if isinstance(main, Result) and is_comparable(outcome) else []
    return [*accuracy_rows(outcome, main=False), *paired]


def _beside(outcome: Outcome, main: Outcome) -> str:
    if outcome.deviations or not isinstance(outcome, Result) or not isinstance(main, Result):
        return f"Beside the protocol: {'; '.join(outcome.deviations)}"
    names = [method_name(summary.method, summary.c) for summary in summarize(outcome)]
    return f"Also{_apart(outcome, main)}: {'; '.join(names)}"


def _apart(outcome: Result, main: Result) -> str:
    """Say what tells a result of the protocol from the main one that has the same methods: seeds, or the first task."""
    methods = {(run.method, run.c) for run in main.complete_runs}
    runs = [run for run in outcome.complete_runs if (run.method, run.c) in methods]
    seeds = {run.seed for run in runs} - {run.seed for run in main.complete_runs}
    listed = ", ".join(map(str, sorted(seeds)))
    other = f", with seed{'s' * (len(seeds) > 1)} {listed}" if seeds else ", from another first task"
    return other if runs else ""


def _named(outcome: Outcome, main: Outcome) -> Outcome:
    """Return an outcome with the title that its figure has: one beside the main one is told from it."""
    if outcome is main or outcome.deviations or not isinstance(outcome, Result) or not isinstance(main, Result):
        return outcome
    return replace(outcome, title=f"{outcome.title}{_apart(outcome, main)}")


def _shown(section: Section, path: Path, outcome: Outcome, main: Outcome | None, figure: str, results: str) -> str:
    """Return an outcome with its figure, its numbers and its origin; one beside the main outcome has a heading."""
    shows_table = isinstance(outcome, Result) and not section.runs_of
    heading, named = "", f"{section.place.capitalize()}: {outcome.title}"
    if main is not None:
        beside = _beside(outcome, main)
        heading, named = f"### {beside}\n\n", f"{named}. {beside}"
    learnt = protocol_said(outcome) if isinstance(outcome, Result) and main is None and shows_table else ""
    # The table says it too.
    said = "" if shows_table else "".join(f"**{text}**\n\n" for text in said_of(outcome))
    file = path.name if path.name not in ("result.json", "findings.json") else f"{path.parent.name}/{path.name}"
    # The table of accuracies has its place where the accuracies are what is shown.
    table = f"{markdown_table(outcome)}\n" if isinstance(outcome, Result) and shows_table else ""
    if isinstance(outcome, Result) and section.training and (of_training := training_table(outcome)):
        table += f"{of_training}\n"
    return (
        f"{heading}{learnt}{said}![{named}]({figure})\n\n{markdown_rows(_rows(section, outcome, main))}\n{table}"
        f"Made by {made(outcome, main)}: [`{file}`]({results}{file}).\n"
    )


def _shown_search(search: list[tuple[Path, Result]], figure: str, results: str) -> str:
    outcomes = [outcome for _, outcome in search]
    said = "".join(f"**{text}**\n\n" for text in said_of_search(outcomes))
    origin = "\n".join(f"- {made(outcome)}: [`{path.name}`]({results}{path.name})." for path, outcome in search)
    return (
        f"### The search for strengths\n\n{said}![{outcomes[0].title}: search for a strength]({figure})\n\n"
        f"{markdown_rows(search_rows(outcomes))}\nMade by\n{origin}\n"
    )


def _stem(name: str, path: Path) -> str:
    """Return the name of a figure: that of its file, if the file has one and is this experiment's own."""
    return path.stem if path.stem.startswith(name) else name


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
