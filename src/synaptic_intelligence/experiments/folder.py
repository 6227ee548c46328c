"""The folder of a run: what is there already, and whether a run may start or go on in it."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import final

from synaptic_intelligence.document import JSON, ResultError, exact
from synaptic_intelligence.experiments.checkpoint import checkpoint_path, read_checkpoint
from synaptic_intelligence.experiments.environment import describe_environment
from synaptic_intelligence.experiments.method import RIVALS, Method
from synaptic_intelligence.experiments.plan import Job, Plan, Record
from synaptic_intelligence.experiments.settings import Settings, deviations, option
from synaptic_intelligence.result import Result, read_result, write_result

# Of the environment these decide the numbers, to the last bit, as the settings do.
_DECISIVE = ("synaptic_intelligence", "torch", "device", "threads")
_ANEW = "Start anew with --overwrite, or write elsewhere with --out"
_MADE_FROM_RESULT = ("figure.png", "figure.svg", "report.html")

BEFORE = "result.before.json"
"""In the folder of a run that is extended: the result as it was, until all that was added is there."""


@final
class RefusedError(ValueError):
    """The run may not start or go on in this folder.

    Args:
        problem: why, a sentence.
        way_out: what may be done, in the options of ``synaptic run``; empty: the problem says it.
    """

    def __init__(self, problem: str, way_out: str = "") -> None:
        super().__init__(f"{problem} {way_out}".rstrip())
        self.problem = problem
        self.way_out = way_out


def start_run(plan: Plan, workers: int, command: str, *, overwrite: bool) -> Result:
    """Make the folder, write a result without runs into it, and return that.

    Raises:
        RefusedError: the folder holds a run, and ``overwrite`` is False.
        OSError: the folder cannot be made or written.
    """
    if not overwrite:
        _refuse_loss(plan)
    plan.out.mkdir(parents=True, exist_ok=True)
    clean_up(plan)
    for name in _MADE_FROM_RESULT:
        (plan.out / name).unlink(missing_ok=True)
    plan.checkpoints.mkdir(exist_ok=True)
    result = Result(
        experiment=plan.experiment.name,
        title=plan.experiment.title,
        settings=_settings(plan),
        deviations=deviations(plan.settings, plan.experiment.paper),
        task_names=list(plan.task_names),
        runs=[],
        planned_runs=plan.settings.seeds * len(plan.settings.methods),
        environment=describe_environment(plan.device, plan.threads, workers),
        command=command,
        started=_now(),
        wall_seconds=0.0,
        chance=plan.experiment.chance,
    )
    write_result(result, plan.result)
    return result


def resume_run(plan: Plan, workers: int, extended: str | None = None) -> tuple[Result, dict[Job, Record]]:
    """Return the result in the folder, and what each job has measured.

    Checkpoints may be ahead of the result, as they are written first. A run that the result has whole needs none: it is
    kept even if its checkpoint is gone, as on another machine. A complete result comes without records. Where something
    is left to train, the file notes under ``resumed`` when that was, what of the environment is not as it was at the
    start (workers or git, for instance), and of which command the run was that is ``extended``, whose result is kept
    beside until the new one is complete.

    Args:
        plan: what to train; its settings are those of the run in the folder.
        workers: processes side by side.
        extended: the command of this plan, where it has all that the run in the folder has, and more seeds, strengths
            or rivals; the result becomes one of the whole plan.

    Raises:
        RefusedError: there is no run here, or it was started with other settings.
        CheckpointError: a checkpoint is damaged.
        OSError: the folder cannot be read or written.
    """
    try:
        result = read_result(plan.result)
    except FileNotFoundError:
        if _has_checkpoints(plan):
            raise _without_result(plan) from None
        asked = "resume" if extended is None else "extend"
        raise RefusedError(f"nothing to {asked}: there is no {plan.result}.", f"Leave out --{asked}") from None
    except ResultError as error:
        raise _damaged(error) from error
    now = {"experiment": plan.experiment.name, **_settings(plan)}
    # A setting that is younger than the file was as its default is.
    defaults: dict[str, JSON] = {each.name: each.default for each in fields(Settings) if isinstance(each.default, bool)}
    then: dict[str, JSON] = {"experiment": result.experiment, **defaults, **result.settings}
    environment = describe_environment(plan.device, plan.threads, workers)
    for name in _DECISIVE:
        now[name], then[name] = environment[name], result.environment.get(name)
    grown = _grown(now, then)
    differing = {
        name: f"{_called(name)} was {_shown(then.get(name))} and is {_shown(now.get(name))}"
        for name in {**now, **then}
        if now.get(name) != then.get(name) and (extended is None or name not in grown)
    }
    if differing:
        adds = "Add to it with --extend. " if differing.keys() <= grown else ""
        raise RefusedError(
            f"the run in {plan.out} has other settings: {'; '.join(differing.values())}.",
            f"{adds}Resume with its own settings ({result.command}), or start anew with --overwrite, or elsewhere with "
            "--out"
            if extended is None
            else f"--extend adds seeds, strengths and rivals to all of its own ({result.command}), and changes nothing",
        )
    noted: dict[str, JSON] = {}
    if extended is not None and grown:
        if not (plan.out / BEFORE).exists():
            write_result(result, plan.out / BEFORE)
        for name in _MADE_FROM_RESULT:
            (plan.out / name).unlink(missing_ok=True)
        noted["extended"] = result.command
        result = replace(
            result,
            settings=_settings(plan),
            deviations=deviations(plan.settings, plan.experiment.paper),
            planned_runs=plan.settings.seeds * len(plan.settings.methods),
            command=extended,
        )
    if result.complete:
        # It may have been killed between its last task and the end.
        clean_up(plan)
        return result, {}
    plan.checkpoints.mkdir(exist_ok=True)
    found = {job: read_checkpoint(checkpoint_path(plan.checkpoints, job)) for job in plan.jobs}
    result = replace(result, environment=_with_sitting(result.environment, {**environment, **noted}))
    write_result(result, plan.result)
    trained = {job: checkpoint.record for job, checkpoint in found.items() if checkpoint is not None}
    return result, {**trained, **_complete(result)}


def _grown(now: dict[str, JSON], then: dict[str, JSON]) -> set[str]:
    """Return which settings differ by what is added alone, and those of rivals that only now take part."""
    before, after = (
        {Method.parse(str(rival)).name for rival in rivals if rival} if isinstance(rivals, list) else set()
        for rivals in (then.get("rivals"), now["rivals"])
    )
    grown = {rival for rival in RIVALS if rival not in before}
    if "ewc" in after - before:
        grown.add("fisher_images")
    for name in ("c", "rivals"):
        old, new = then.get(name), now[name]
        if isinstance(old, list) and isinstance(new, list) and all(each in new for each in old):
            grown.add(name)
    old, new = then.get("seeds"), now["seeds"]
    if isinstance(old, int) and isinstance(new, int) and old <= new:
        grown.add("seeds")
    return {name for name in grown if now.get(name) != then.get(name)}


def _complete(result: Result) -> dict[Job, Record]:
    return {
        Job(run.seed, Method(run.method, run.c)): Record(
            **{each.name: getattr(run, each.name) for each in fields(Record)}
        )
        for run in result.complete_runs
    }


def clean_up(plan: Plan) -> None:
    """Remove what a complete run has no use for, and what was left half-written; what is not ours stays."""
    ours = [plan.out / BEFORE, *plan.checkpoints.glob("seed-*.pt"), *plan.checkpoints.glob(".seed-*.part")]
    for name in (plan.result.name, BEFORE, *_MADE_FROM_RESULT):
        ours += plan.out.glob(f".{name}.*.part")
    for path in ours:
        path.unlink(missing_ok=True)
    if plan.checkpoints.exists() and not any(plan.checkpoints.iterdir()):
        plan.checkpoints.rmdir()


def _with_sitting(first: dict[str, JSON], now: dict[str, JSON]) -> dict[str, JSON]:
    before = first.get("resumed")
    differing = {name: value for name, value in now.items() if first.get(name) != value}
    if first.get("at_once"):
        differing["at_once"] = False
    sitting: JSON = {"started": _now(), **differing}
    return {**first, "resumed": [*(before if isinstance(before, list) else []), sitting]}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _refuse_loss(plan: Plan) -> None:
    try:
        result = read_result(plan.result)
    except FileNotFoundError:
        result = None
    except ResultError as error:
        raise _damaged(error) from error
    if result is not None and result.complete:
        raise RefusedError(f"{plan.out} holds a complete result already.", _ANEW)
    # A result without runs and checkpoints, of a run that failed at once, holds nothing that could be lost.
    if result is None and _has_checkpoints(plan):
        raise _without_result(plan)
    if (result is not None and result.runs) or _has_checkpoints(plan):
        raise RefusedError(f"{plan.out} holds a run that is not complete.", f"Go on with --resume. {_ANEW}")
    made = [name for name in (BEFORE, *_MADE_FROM_RESULT) if (plan.out / name).exists()]
    if made and result is None:
        raise RefusedError(f"{plan.out} holds {made[0]} already, which a run would replace.", _ANEW)


def _has_checkpoints(plan: Plan) -> bool:
    return any(plan.checkpoints.glob("seed-*.pt"))


def _damaged(error: ResultError) -> RefusedError:
    return RefusedError(f"{str(error).removesuffix('.')}.", _ANEW)


def _without_result(plan: Plan) -> RefusedError:
    # The result has the settings; without them nobody knows what the checkpoints are of.
    return RefusedError(f"{plan.checkpoints} holds a run that cannot be resumed: there is no {plan.result}.", _ANEW)


def _settings(plan: Plan) -> dict[str, JSON]:
    counting = {"optimizer": "Adam, moments fresh for each task, its count of steps not"}
    return {
        **plan.settings.as_json(),
        **plan.experiment.protocol,
        **(counting if plan.settings.keep_step_count else {}),
    }


def _called(name: str) -> str:
    return option(name) if name in Settings.__dataclass_fields__ else name


def _shown(value: JSON) -> str:
    if isinstance(value, list):
        return " ".join(_shown(item) for item in value)
    return exact(value) if isinstance(value, float) else "not set" if value is None else str(value)
