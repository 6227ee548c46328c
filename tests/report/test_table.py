from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from synaptic_intelligence.report.table import markdown_table, result_table
from synaptic_intelligence.result import Result


def rendered(result: Result, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(result_table(result))
    return capture.get()


def test_five_tasks_fit_eighty_columns_uncut(make_result: Callable[..., Result]) -> None:
    text = rendered(make_result())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for header in ["seeds", "0 or 1", "8 or 9", "average", "forgetting", "backward"]:
        assert header in text
    # Of the three seeds at c = 1, each later task costs 0.01, 0.02 and 0.03: task 1 ends at 0.92 on average with a
    # standard deviation of 0.04, task 3 and the average at 0.96 with 0.02. t(0.975, 2) / sqrt(3) = 2.4841.
    words = text.split()
    assert words.count("0.920") == 1
    assert words.count("0.960") == 2
    assert words.count("±0.099") == 1
    assert words.count("±0.050") == 2


def test_a_row_for_each_strength(make_result: Callable[..., Result]) -> None:
    table = result_table(make_result(strengths=(1.0, 0.0, 0.01)))
    assert table.row_count == 3
    text = rendered(make_result(strengths=(1.0, 0.0, 0.01)))
    assert text.index("without") < text.index("c = 0.01") < text.index("c = 1 ")


def test_of_many_tasks_the_first_and_the_last_are_shown(make_result: Callable[..., Result]) -> None:
    text = rendered(make_result(tasks=10))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "0 or 1" in text
    assert "2 or 3" not in text
    assert "task 10" in text  # "18 or 19" is too long a header
    said = "Shown are the first and the last of 10 tasks; the average is of all."
    assert said in " ".join(text.split())
    assert "Shown are" not in rendered(make_result(tasks=5))


def test_names_are_text_and_no_markup(make_result: Callable[..., Result]) -> None:
    result = make_result(tasks=2, task_names=["[red]", "[/x]"], title="[bold]Title")
    text = rendered(result)
    assert "[red]" in text
    assert "[/x]" in text
    assert "[bold]Title" in text


def test_one_seed_shows_no_interval(make_result: Callable[..., Result]) -> None:
    assert "±" not in rendered(make_result(seeds=1))
    assert "One seed, so no interval." in rendered(make_result(seeds=1))
    assert "±" not in markdown_table(make_result(seeds=1))
    assert "±" in rendered(make_result(seeds=2))


def test_strengths_of_one_seed_are_said_to_have_no_interval(make_result: Callable[..., Result]) -> None:
    text = markdown_table(make_result(seeds=2, unfinished=1))
    assert "over 1 or 2 seeds. What has one seed has no interval." in text
    assert "no interval" not in markdown_table(make_result(seeds=2))


def test_strengths_that_differ_look_different(make_result: Callable[..., Result]) -> None:
    lines = markdown_table(make_result(strengths=(0.12345678, 0.12345679, 1e-5))).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| c = 1e-05", "| c = 0.12345678", "| c = 0.12345679"]


def test_deviations_and_unfinished_runs_are_said(make_result: Callable[..., Result]) -> None:
    result = make_result(deviations=["2 epochs instead of 10", "c of 3"], unfinished=2)
    for text in [" ".join(rendered(result).split()), markdown_table(result)]:
        assert "This is not the paper's protocol: 2 epochs instead of 10; c of 3." in text
        assert "Incomplete: 4 of 6 runs are complete. Only these are shown." in text
        assert "over 2 seeds" in text


def test_a_full_run_of_the_protocol_says_neither(make_result: Callable[..., Result]) -> None:
    for text in [rendered(make_result()), markdown_table(make_result())]:
        assert "protocol" not in text
        assert "ncomplete" not in text
        assert "Mean and 95 % interval (Student's t) over 3 seeds." in text


@pytest.mark.parametrize("unfinished", [2, 1])
def test_nothing_complete_is_no_error(make_result: Callable[..., Result], unfinished: int) -> None:
    result = make_result(seeds=1, unfinished=unfinished)
    assert result_table(result).row_count == 2 - unfinished
    assert f"Incomplete: {2 - unfinished} of 2 runs are complete." in rendered(result)


def test_one_task_shows_a_dash_for_forgetting(make_result: Callable[..., Result]) -> None:
    assert markdown_table(make_result(tasks=1, seeds=1)).splitlines()[2:4] == [
        "| without synapses (c = 0) | 1 | 1.000 | 1.000 | - | - |",
        "| c = 1 | 1 | 1.000 | 1.000 | - | - |",
    ]


def test_markdown_has_every_number(make_result: Callable[..., Result]) -> None:
    lines = markdown_table(make_result(tasks=2, seeds=2, strengths=(0.0,))).splitlines()
    assert lines == [
        "| method | seeds | 0 or 1 | 2 or 3 | average | forgetting | backward transfer |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
        # Seeds 0.9 and 0.8: half the difference times t(0.975, 1) = 12.7062.
        "| without synapses (c = 0) | 2 | 0.850 ± 0.635 | 1.000 ± 0.000 | 0.925 ± 0.318 | 0.150 ± 0.635 "
        "| -0.150 ± 0.635 |",
        "",
        "Mean and 95 % interval (Student's t) over 2 seeds.",
    ]


def test_markdown_has_the_first_and_the_last_of_many_tasks(make_result: Callable[..., Result]) -> None:
    assert markdown_table(make_result(tasks=10)).splitlines()[0].count("|") == 16
    lines = markdown_table(make_result(tasks=11, seeds=1, strengths=(1.0,))).splitlines()
    assert lines[:3] == [
        "| method | seeds | 0 or 1 | 20 or 21 | average | forgetting | backward transfer |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
        # Each later task costs 1 % of one: the first has lost 10 %, all of them 5 %, those before the last 5.5 %.
        "| c = 1 | 1 | 0.900 | 1.000 | 0.950 | 0.055 | -0.055 |",
    ]
    assert lines[4] == (
        "One seed, so no interval. Shown are the first and the last of 11 tasks; the average is of all."
    )
    assert "Shown are" not in markdown_table(make_result(tasks=10))


def test_markdown_escapes_a_bar_in_a_name(make_result: Callable[..., Result]) -> None:
    header = markdown_table(make_result(tasks=2, task_names=["a|b", "c"])).splitlines()[0]
    assert header == r"| method | seeds | a\|b | c | average | forgetting | backward transfer |"


RIVALS = (("ewc", 30.0), ("sgd-dropout", None), ("scratch", None), ("joint", None), ("new one", None))


def test_every_method_has_its_row_by_name(make_result: Callable[..., Result]) -> None:
    lines = markdown_table(make_result(tasks=2, seeds=1, rivals=RIVALS)).splitlines()
    assert lines[:9] == [
        "| method | seeds | 0 or 1 | 2 or 3 | average | forgetting | backward transfer |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
        "| without synapses (c = 0) | 1 | 0.900 | 1.000 | 0.950 | 0.100 | -0.100 |",
        "| c = 1 | 1 | 0.990 | 1.000 | 0.995 | 0.010 | -0.010 |",
        "| EWC, c = 30 | 1 | 0.990 | 1.000 | 0.995 | 0.010 | -0.010 |",
        "| SGD with dropout | 1 | 0.990 | 1.000 | 0.995 | 0.010 | -0.010 |",
        # Learnt each by a network of its own, or at once, nothing is forgotten.
        "| each task from scratch | 1 | 0.990 | 1.000 | 0.995 | - | - |",
        "| all tasks at once | 1 | 0.990 | 0.980 | 0.985 | - | - |",
        "| new one | 1 | 0.990 | 1.000 | 0.995 | 0.010 | -0.010 |",
    ]


@pytest.mark.parametrize("tasks", [5, 10])
def test_every_method_fits_eighty_columns_uncut(make_result: Callable[..., Result], tasks: int) -> None:
    text = rendered(make_result(tasks=tasks, rivals=RIVALS))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    header = next(line for line in text.splitlines() if line.startswith("method"))
    column = " ".join(" ".join(line[: header.index(" seeds")] for line in text.splitlines()).split())
    for name in ("without synapses (c = 0)", "c = 1", "EWC, c = 30", "SGD with dropout", "each task from scratch"):
        assert name in column
    assert "all tasks at once" in column
    assert result_table(make_result(tasks=tasks, rivals=RIVALS)).row_count == 7
