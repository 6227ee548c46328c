"""What the ranks do in the tests: the plain loop of plain.py, each rank with its part of every batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from oracle import small_model
from stacks.plain import RATE, STEPS, TASKS, XI, C, Outcome, batches, synapses_of
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import synaptic_intelligence as si

Wrap = Literal["bare", "ddp", "fsdp2"]
Form = Literal["hooks", "inside"]
Kind = Literal["exact", "empirical"]
ALL = STEPS * TASKS


@dataclass(frozen=True)
class Job:
    """The steps from ``first`` to ``last`` of three tasks, by some ranks together.

    Attributes:
        wrap, form: how the model is wrapped, and where the synapses are.
        clip: the norm of all gradients, over all ranks, is clipped at this.
        accumulate: so many batches make one step; gradients are summed over ranks at the last one alone.
        load, save: folders of distributed checkpoints, from before the first and after the last step.
    """

    wrap: Wrap
    form: Form = "hooks"
    first: int = 0
    last: int = ALL
    clip: float | None = None
    accumulate: int = 1
    load: Path | None = None
    save: Path | None = None


def wrapped(model: nn.Module, wrap: Wrap) -> nn.Module:
    """Wrap a model as users do: layer by layer and the whole, with FSDP2."""
    if wrap == "ddp":
        return DistributedDataParallel(model)
    if wrap == "fsdp2":
        for layer in model.children():
            fully_shard(layer)
        fully_shard(model)
    return model


def optimizer_and_synapses(model: nn.Module, form: Form) -> tuple[torch.optim.Optimizer, si.Consolidator]:
    if form == "inside":
        inside = si.optim.Adam(model.named_parameters(), lr=RATE, c=C, xi=XI)
        return inside, inside.synapses
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    return optimizer, synapses_of(model, optimizer)


@contextmanager
def synchronised(model: nn.Module, now: bool) -> Iterator[None]:
    """Sum gradients over ranks or not yet, as the wrapper of the model says it."""
    if isinstance(model, DistributedDataParallel):
        with nullcontext() if now else model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
    yield


def part(batch: Tensor) -> Tensor:
    """This rank's part of a batch, or all of it in a process that is alone."""
    return batch.chunk(dist.get_world_size())[dist.get_rank()] if dist.is_initialized() else batch


def train(rank: int, job: Job) -> Outcome:
    """Train, and return what came out, whole."""
    bare = small_model(torch.float64)
    model = wrapped(bare, job.wrap)
    optimizer, synapses = optimizer_and_synapses(model, job.form)
    if job.load is not None:
        load(job.load, model, optimizer, None if job.form == "inside" else synapses)
    for number in range(job.first, job.last):
        task, step = divmod(number, STEPS)
        x, y = batches(task, torch.float64)[step]
        last = (number + 1) % job.accumulate == 0
        with synchronised(model, last):
            (F.cross_entropy(model(part(x)), part(y)) / job.accumulate).backward()
        if not last:
            continue
        if job.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip)
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 == STEPS and task + 1 < TASKS:
            synapses.consolidate()
    if job.save is not None:
        save(job.save, model, optimizer, None if job.form == "inside" else synapses)
    return whole_outcome(bare, synapses)


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, synapses: si.Consolidator | None) -> None:
    """Save model and optimizer, and the synapses if they are not inside."""
    of_model, of_optimizer = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": of_model, "optimizer": of_optimizer}
    save_checkpoint({**state, "synapses": synapses} if synapses else state, checkpoint_id=folder)


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, synapses: si.Consolidator | None) -> None:
    """Load what :func:`save` saved, by any number of ranks."""
    of_model, of_optimizer = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": of_model, "optimizer": of_optimizer}
    load_checkpoint({**state, "synapses": synapses} if synapses else state, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer)


def whole_outcome(bare: nn.Module, synapses: si.Consolidator) -> Outcome:
    def whole(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        return {name: full(tensor.detach()).clone() for name, tensor in named}

    omega, path, anchor = (whole(named.items()) for named in (synapses.omega, synapses.path, synapses.anchor))
    return Outcome(whole(bare.named_parameters()), omega, path, anchor, synapses.tasks)


def full(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found


@dataclass(frozen=True)
class Bench:
    """A wrapped model in the middle of its second task."""

    bare: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    synapses: si.Consolidator

    def backward(self, number: int) -> None:
        task, step = divmod(number, STEPS)
        x, y = batches(task, torch.float64)[step]
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(part(x)), part(y)).backward()

    def step(self, number: int) -> None:
        self.backward(number)
        self.optimizer.step()


def bench(wrap: Wrap, form: Form = "hooks") -> Bench:
    bare = small_model(torch.float64)
    made = wrapped(bare, wrap)
    found = Bench(bare, made, *optimizer_and_synapses(made, form))
    for number in range(STEPS + 3):
        found.step(number)
        if number + 1 == STEPS:
            found.synapses.consolidate()
    return found


def count_messages(rank: int, wrap: Wrap, form: Form) -> int:
    """Return how many collectives one step takes, gradients being there already."""
    own = bench(wrap, form)
    own.backward(STEPS + 3)
    with CommDebugMode() as seen:
        own.optimizer.step()
    return int(seen.get_total_counts())


def shard_after_a_task(rank: int) -> Outcome:
    """Train the first task on the whole model, then shard it; the new optimizer is given the old moments."""
    model = small_model(torch.float64)
    optimizer, synapses = optimizer_and_synapses(model, "hooks")
    for number in range(ALL):
        task, step = divmod(number, STEPS)
        x, y = batches(task, torch.float64)[step]
        optimizer.zero_grad()
        if task == 0:  # each rank the same
            F.cross_entropy(model(x), y).backward()
        else:
            F.cross_entropy(model(part(x)), part(y)).backward()
        optimizer.step()
        if step + 1 == STEPS and task + 1 < TASKS:
            synapses.consolidate()
        if number + 1 == STEPS:
            moments = [optimizer.state[p] for p in model.parameters()]
            wrapped(model, "fsdp2")
            optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
            synapses.attach(optimizer, model.named_parameters())
            sharded: Any
            for sharded, old in zip(model.parameters(), moments, strict=True):
                placed = (sharded.device_mesh, sharded.placements)
                moved = {name: distribute_tensor(old[name], *placed) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[sharded] = {"step": old["step"], **moved}
    return whole_outcome(model, synapses)


def samples(rank: int) -> list[tuple[Tensor, Tensor]]:
    """One rank has three batches of 16, the other a single one of 5: together the data of one process."""
    x, y = batches(0, torch.float64)[3]
    return batches(0, torch.float64)[:3] if rank == 0 else [(x[:5], y[:5])]


Given = Literal["wrapped", "bare", "compiled"]


def fisher_omega(rank: int, wrap: Wrap, kind: Kind, given: Given = "wrapped", *, norm: bool = False) -> Any:
    """Return what Fisher finds, and whether gradients and modes are as they were; evaluated shortly before."""
    bare: nn.Module = with_batch_norm(rank) if norm else small_model(torch.float64)
    model = wrapped(bare, wrap)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    models = {"wrapped": model, "bare": bare, "compiled": torch.compile(model, backend="eager")}
    fisher = si.Fisher(models[given], F.cross_entropy, kind=kind, chunk_size=4)  # type: ignore[arg-type]
    synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=C)
    with torch.no_grad():
        model.eval()(batches(0, torch.float64)[0][0])
    model.train()
    buffers = [buffer.clone() for buffer in bare.buffers()]
    data = samples(rank) if dist.is_initialized() else [*samples(0), *samples(1)]
    synapses.consolidate(data)
    same = model.training and all(p.grad is None for p in synapses._state.parameters.values())
    same = same and all(map(torch.equal, buffers, bare.buffers()))
    return {name: full(omega).clone() for name, omega in synapses.omega.items()}, same


def fisher_with_batch_norm(rank: int, wrap: Wrap) -> Any:
    return fisher_omega(rank, wrap, "exact", norm=True)


def with_batch_norm(rank: int) -> nn.Module:
    """A network whose running means differ from rank to rank."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    model[1].get_buffer("running_mean").fill_(0.3 * rank)
    return model


def fisher_while_accumulating(rank: int) -> None:
    """The gradients of a batch are not summed over ranks yet."""
    own = bench_with_fisher()
    with synchronised(own.model, now=False):
        own.backward(0)
    own.synapses.consolidate(samples(rank))


def fisher_of_sums(rank: int) -> None:
    """Gradients are summed over ranks, not averaged."""
    own = bench_with_fisher()
    for layer in own.model.children():
        assert isinstance(layer, FSDPModule)
        layer.set_gradient_divide_factor(1.0)
    own.synapses.consolidate(samples(rank))


def fisher_of_the_inner_module(rank: int) -> None:
    fisher_omega(rank, "ddp", "exact", "bare")


def bench_with_fisher() -> Bench:
    model = wrapped(small_model(torch.float64), "fsdp2")
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    fisher = si.Fisher(model, F.cross_entropy, kind="empirical")
    return Bench(model, model, optimizer, si.Consolidator(model.named_parameters(), optimizer, fisher, c=C))


def save_importance(rank: int, file: Path) -> Outcome:
    own = bench("fsdp2")
    own.synapses.save(file)
    return whole_outcome(own.bare, own.synapses)


def load_importance(rank: int, file: Path) -> Outcome:
    bare = small_model(torch.float64)
    model = wrapped(bare, "fsdp2")
    _, synapses = optimizer_and_synapses(model, "hooks")
    synapses.load(file)
    return whole_outcome(bare, synapses)


def load_where_it_is(rank: int, file: Path) -> None:
    """The file is on the first rank alone, as on machines without a common folder."""
    load_importance(rank, file if rank == 0 else file.with_name("nowhere"))


def message_of(rank: int, mistake: str, *args: Any) -> str:
    """Return what is raised on this rank."""
    try:
        globals()[mistake](rank, *args)
    except (OSError, TypeError, si.SynapseError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def consolidate_with_a_hole(rank: int) -> None:
    """A weight is not finite, in the part of one rank alone."""
    own = bench("fsdp2")
    weight: Any = own.bare.get_parameter("0.weight")
    if rank == 1:
        with torch.no_grad():
            weight.to_local().data.fill_(torch.nan)  # unseen by version counters, as what a step leaves
    own.synapses.consolidate()


def strength_for_each_replicate(rank: int) -> None:
    model = wrapped(small_model(torch.float64), "fsdp2")
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    si.SynapticIntelligence(model.named_parameters(), optimizer, c=torch.tensor([0.0, 1.0]), xi=XI)


def penalty_and_memory(rank: int, wrap: Wrap) -> tuple[Tensor, si.Memory, int]:
    own = bench(wrap)
    local = [p.to_local() if isinstance(p, DTensor) else p for p in own.bare.parameters()]
    return own.synapses.penalty(), own.synapses.memory(), sum(p.numel() for p in local)


def pull_without_gradient(rank: int, wrap: Wrap) -> Outcome:
    """The last layer has importance, and gets no gradient in the second task: it is pulled alone."""
    own = bench(wrap)
    for number in range(STEPS + 3, STEPS + 8):
        own.backward(number)
        for name, parameter in own.bare.named_parameters():
            if name.startswith("3."):
                parameter.grad = None
        own.optimizer.step()
    return whole_outcome(own.bare, own.synapses)
