"""What synapses say of themselves: each figure against a plain count, each finding where it is due and nowhere else."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operations import Ops
from oracle import same, small_model, task_batches
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.diagnosis.pull import pull_share


class Bench:
    """A small network with synapses, trained by the plain loop."""

    def __init__(
        self, optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam, c: float = 0.5, **options: Any
    ):
        self.model = small_model()
        self.optimizer = optimizer(self.model.parameters(), **{"lr": 1e-2, **options})
        self.synapses = si.SynapticIntelligence(self.model.named_parameters(), self.optimizer, c=c, xi=0.1)
        self.loss = torch.zeros(())

    def train(self, task: int, steps: int = 5) -> Bench:
        for x, y in task_batches(task, steps):
            self.optimizer.zero_grad()
            self.loss = F.cross_entropy(self.model(x), y)
            self.loss.backward()
            self.optimizer.step()
        return self

    def in_second_task(self, steps: int = 5) -> Bench:
        self.train(0)
        self.synapses.consolidate()
        return self.train(1, steps)

    @property
    def found(self) -> list[str]:
        return [finding.what for finding in self.synapses.diagnose(self.loss).findings]


def shares_by_hand(bench: Bench, c: float) -> dict[str, float]:
    """Return the pull's share of the gradient of each parameter."""
    shares = {}
    for name, p in bench.model.named_parameters():
        assert p.grad is not None
        pull = 2 * c * bench.synapses.omega[name] * (p.detach() - bench.synapses.anchor[name])
        size, task = math.sqrt(float((pull**2).sum())), math.sqrt(float((p.grad**2).sum()))
        shares[name] = size / (size + task)
    return shares


# What is well.


@pytest.mark.parametrize("inside", [False, True], ids=["hooks", "inside"])
def test_of_training_that_is_well_nothing_is_found_and_nothing_is_changed(inside: bool) -> None:
    bench = Bench()
    if inside:
        bench.synapses.detach()
        bench.optimizer = si.optim.Adam(bench.model.named_parameters(), lr=1e-2, c=0.5, xi=0.1)
        bench.synapses = bench.optimizer.synapses
    bench.in_second_task()
    state = [bench.synapses.state_dict(), bench.optimizer.state_dict(), bench.model.state_dict()]
    before, random = copy.deepcopy(state), torch.get_rng_state()
    gradients = [p.grad for p in bench.model.parameters()]
    values = copy.deepcopy(gradients)
    told = bench.synapses.diagnose(bench.loss)
    assert told.findings == ()
    assert same(before, state)
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is g for p, g in zip(bench.model.parameters(), gradients, strict=True))
    assert same(values, gradients)
    assert (told.tasks, told.steps, told.nonfinite_steps) == (1, 5, 0)
    assert told.penalty == float(bench.synapses.penalty()) > 0
    assert told.loss == bench.loss.item()
    assert (told.stability, told.stiffest) == (None, None)
    assert told.still_share == 0.0
    assert (told.covered_share, told.uncovered) == (1.0, ())


def test_before_any_step_and_after_the_first_task_there_is_nothing_to_say() -> None:
    bench = Bench()
    told = bench.synapses.diagnose()
    assert (told.tasks, told.steps, told.penalty, told.loss) == (0, 0, 0.0, None)
    assert (told.pull_share, told.still_share, told.stability) == (None, None, None)
    assert told.findings == ()
    bench.train(0)
    bench.synapses.consolidate()
    assert bench.synapses.diagnose(bench.loss).findings == ()  # the penalty is zero, as it must be here


def test_the_report_is_short_and_says_everything() -> None:
    told = si.Diagnosis(
        tasks=2,
        steps=40,
        optimizer="SGD",
        penalty=0.0123,
        loss=0.31,
        stability=1.25,
        stiffest="layer.weight",
        pull_share=0.2345,
        most_pulled="layer.bias",
        still_share=0.0,
        covered_share=0.75,
        uncovered=("head.weight",),
        nonfinite_steps=0,
        findings=(si.Finding("unstable", "set c below 0.4"),),
    )
    assert str(told).split("\n") == [
        "tasks       2 consolidated, 40 steps since",
        "penalty     0.0123, the loss 0.31",
        "stability   1.2 of the bound, in 'layer.weight'; SGD diverges from 1 up",
        "pull        0.23 of task gradient and pull, by their norms, in 'layer.bias'",
        "movement    0.0% of sampled numbers that had a gradient stayed where they were",
        "covered     75.0% of the numbers that are trained",
        "not finite  0 steps",
        "",
        "- unstable: set c below 0.4",
    ]
    report = str(Bench().synapses.diagnose())
    assert report.endswith("\n\nnothing was found")
    for expected in (
        "the loss is not known",
        "no bound",
        "optimizer.step(), before zero_grad()",
        "no step was looked at",
    ):
        assert expected in report


# Penalty and loss.


def test_a_penalty_of_zero_is_found_once_there_were_steps_that_should_have_made_one() -> None:
    bench = Bench(c=1e-3)
    bench.in_second_task()
    with torch.no_grad():
        for omega in bench.synapses.omega.values():
            omega.zero_()
    assert bench.found == ["no-penalty"]
    bench.synapses.c = 0.0
    assert bench.found == []


def test_a_penalty_above_the_loss_is_found() -> None:
    bench = Bench().in_second_task()
    penalty = float(bench.synapses.penalty())
    for loss, due in ((0.99 * penalty, True), (1.01 * penalty, False), (-1.0, False), (math.nan, False), (0, False)):
        told = bench.synapses.diagnose(loss)
        assert [finding.what for finding in told.findings] == ["penalty-over-loss"] * due
    assert bench.synapses.diagnose(torch.tensor([0.99 * penalty])).findings != ()


def test_the_loss_that_was_observed_counts_where_none_is_given() -> None:
    bench = Bench().in_second_task()
    bench.synapses.observe(torch.tensor(1e-9))
    assert bench.synapses.diagnose().loss == pytest.approx(1e-9)
    assert [finding.what for finding in bench.synapses.diagnose().findings] == ["penalty-over-loss"]
    assert bench.synapses.diagnose(100.0).loss == 100.0


# Stability.


def test_the_strength_and_the_rate_that_are_told_are_where_training_turns_from_settling_to_diverging() -> None:
    def swing(c: float, lr: float, inside: bool) -> tuple[float, si.Diagnosis]:
        """Pull numbers back to their anchor, without any task; return how far they are after 400 steps."""
        p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        if inside:
            optimizer: torch.optim.Optimizer = si.optim.SGD([("w", p)], lr=lr, momentum=0.9, nesterov=True, c=c, xi=0.1)
            synapses = optimizer.synapses  # type: ignore[attr-defined]
        else:
            optimizer = torch.optim.SGD([p], lr=lr, momentum=0.9, nesterov=True)
            synapses = si.SynapticIntelligence([("w", p)], optimizer, c=c, xi=0.1)
        state = synapses.state_dict()
        omega = torch.tensor([0.1, 7.0, 2.0], dtype=torch.float64)
        synapses.load_state_dict({**state, "tasks": 1, "untouched": False, "omega": {"w": omega}})
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", si.SynapseWarning)  # steps may warn of it too
            p.fill_(1.0)
            for _ in range(400):
                p.grad = torch.zeros_like(p)
                optimizer.step()
        return float(p.detach().abs().max()), synapses.diagnose()

    for inside in (False, True):
        far, told = swing(1.0, 0.2, inside)
        assert told.stability is not None
        assert told.stability == pytest.approx(0.2 * 2 * 7.0 / (2 * 1.9 / 2.8))
        assert told.stiffest == "w"
        (finding,) = told.findings
        assert finding.what == "unstable"
        assert far > 1e6
        largest_c, largest_lr = 1.0 / told.stability, 0.2 / told.stability
        assert f"set c below {largest_c:.3g}, or lr below {largest_lr:.3g}" in finding.message
        for c, lr in ((0.98 * largest_c, 0.2), (1.0, 0.98 * largest_lr)):
            far, told = swing(c, lr, inside)
            assert far < 0.1
            assert told.findings == ()
        for c, lr in ((1.02 * largest_c, 0.2), (1.0, 1.02 * largest_lr)):
            far, told = swing(c, lr, inside)
            assert far > 100
            assert [finding.what for finding in told.findings] == ["unstable"]


def test_a_strength_for_each_replicate_is_told_by_what_to_multiply_it() -> None:
    p = nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([p], lr=0.5)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=torch.tensor([0.1, 1.0]), xi=0.1)
    state = {**synapses.state_dict(), "tasks": 1, "omega": {"w": torch.tensor([[9.0, 0, 0], [0, 0, 5.0]])}}
    synapses.load_state_dict(state)
    (finding,) = synapses.diagnose().findings
    assert "multiply c by less than 0.4," in finding.message


# The pull's share of the gradient.


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_the_share_of_the_pull_is_that_of_the_norms_where_it_is_the_largest(kind: type[torch.optim.Optimizer]) -> None:
    bench = Bench(kind).in_second_task()
    shares = shares_by_hand(bench, 0.5)
    told = bench.synapses.diagnose()
    assert told.most_pulled == max(shares, key=shares.__getitem__)
    assert told.pull_share == pytest.approx(max(shares.values()), rel=1e-12)
    assert len(shares) == 6


@pytest.mark.parametrize("set_to_none", [False, True])
def test_without_gradients_the_share_is_not_known(set_to_none: bool) -> None:
    bench = Bench().in_second_task()
    bench.optimizer.zero_grad(set_to_none=set_to_none)
    told = bench.synapses.diagnose()
    assert told.pull_share is None
    assert told.findings == ()
    assert "call after optimizer.step(), before zero_grad()" in str(told)


def test_a_pull_that_leaves_the_task_no_say_and_one_that_holds_nothing_are_found() -> None:
    bench = Bench().in_second_task()
    balanced = bench.synapses.diagnose().pull_share
    assert balanced is not None
    # The share is a pull over task and pull, so that c = 0.5 times so much makes it 0.991 and 0.99e-6.
    for share, what in ((0.991, ["pull-dominates"]), (0.989, []), (1.01e-6, []), (0.99e-6, ["pull-negligible"])):
        bench.synapses.c = 0.5 * (share / (1 - share)) / (balanced / (1 - balanced))
        told = bench.synapses.diagnose()
        assert told.pull_share == pytest.approx(share, rel=1e-9)
        assert [finding.what for finding in told.findings] == what
    bench.synapses.c = 0.0
    assert bench.synapses.diagnose().pull_share is None


def test_a_gradient_that_is_not_finite_gives_no_share() -> None:
    bench = Bench().in_second_task()
    bench.model.get_parameter("3.weight").grad = torch.full((3, 8), math.inf, dtype=torch.float64)
    told = bench.synapses.diagnose()
    assert told.pull_share is not None
    assert math.isnan(told.pull_share)
    assert "the gradient or the pull in '3.weight' is not finite" in str(told)


def test_a_layer_that_cannot_learn_is_found_beside_one_with_a_large_gradient() -> None:
    small, large = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    named = [("small", small), ("large", large)]
    optimizer = torch.optim.Adam([small, large], lr=0.01)
    synapses = si.SynapticIntelligence(named, optimizer, c=1.0, xi=0.1)
    for task in range(2):
        for _ in range(3):
            optimizer.zero_grad()
            (small.sum() * 1e-3 + large.square().sum() * 1e3).backward()
            optimizer.step()
        if task == 0:
            synapses.consolidate()
            synapses._state.omega["small"].fill_(100.0)
    told = synapses.diagnose(1e6)
    pull = 2 * 100.0 * float((small.detach() - synapses.anchor["small"]).abs()[0])
    assert told.pull_share == pytest.approx(pull / (pull + 1e-3))
    (finding,) = told.findings
    assert finding.what == "pull-dominates"
    assert "of the gradient of 'small'" in finding.message


def test_a_pull_where_the_task_has_no_gradient_drowns_nothing() -> None:
    bench = Bench().in_second_task()
    shares = shares_by_hand(bench, 0.5)
    first = max(shares, key=shares.__getitem__)
    del shares[first]
    for none in (None, torch.zeros_like(bench.model.get_parameter(first))):
        bench.model.get_parameter(first).grad = none
        told = bench.synapses.diagnose()
        assert told.most_pulled == max(shares, key=shares.__getitem__)
        assert told.pull_share == pytest.approx(max(shares.values()), rel=1e-12)


def test_all_shares_are_read_from_the_device_at_once() -> None:
    synapses = Bench().in_second_task().synapses
    with Ops() as ops:
        share, _ = pull_share(synapses._binding, synapses._state, synapses._strength)
    assert share is not None
    # float() of a tensor would be an operation, and tolist() is none.
    assert sum("stack" in op for op in ops.seen) == 1
    assert sum("_local_scalar_dense" in op for op in ops.seen) == 0


# Movement.


@pytest.mark.parametrize("inside", [False, True], ids=["hooks", "inside"])
def test_bfloat16_weights_that_stay_where_they_are_are_found_and_warned_of(inside: bool) -> None:
    model = nn.Linear(20, 10).to(torch.bfloat16)

    def make() -> tuple[torch.optim.Optimizer, si.Consolidator]:
        if inside:
            with_synapses = si.optim.Adam(model.named_parameters(), lr=1e-6, c=0.1, xi=0.1)
            return with_synapses, with_synapses.synapses
        plain = torch.optim.Adam(model.parameters(), lr=1e-6)
        return plain, si.SynapticIntelligence(model.named_parameters(), plain, c=0.1, xi=0.1)

    with pytest.warns(si.SynapseWarning, match="bfloat16"):
        optimizer, synapses = make()

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(8, 20, dtype=torch.bfloat16)).square().sum().backward()
        optimizer.step()

    for _ in range(20):
        step()
    told = synapses.diagnose()
    assert told.still_share is not None
    assert told.still_share > 0.9
    assert told.findings == ()  # one sample is too little
    for _ in range(100):
        step()
    (finding,) = synapses.diagnose().findings
    assert finding.what == "still"
    with pytest.warns(si.SynapseWarning, match="left by a step exactly where they were"):
        synapses.consolidate()
    assert synapses.diagnose().findings == ()  # of the new task nothing is known
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the penalty is exactly zero")
        for _ in range(130):
            step()
        synapses.consolidate()  # it was warned of, and lasts


def test_float32_that_stays_where_it_is_may_have_converged_and_is_not_warned_of() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([p], lr=1e-9)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=0.1)
    for _ in range(130):
        p.grad = torch.ones(4)
        optimizer.step()
    told = synapses.diagnose()
    assert told.still_share == 1.0
    (finding,) = told.findings
    assert finding.what == "still"
    assert "training may have converged" in finding.message
    synapses.consolidate()


def test_groups_at_rate_zero_are_not_held_still_by_their_digits() -> None:
    low, high = (nn.Parameter(torch.ones(400, 4)) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [low], "lr": 0.0}, {"params": [high]}]
    optimizer = torch.optim.Adam(groups, lr=0.01)
    synapses = si.SynapticIntelligence([("low", low), ("high", high)], optimizer, c=1.0, xi=0.1)
    for _ in range(130):
        low.grad, high.grad = torch.ones(400, 4), torch.ones(400, 4)
        optimizer.step()
    told = synapses.diagnose()
    assert told.still_share == 0.0
    assert told.findings == ()


def test_steps_are_looked_at_where_nothing_integrates_and_nothing_pulls() -> None:
    model = small_model(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fisher = si.Fisher(model, F.cross_entropy, kind="exact")
    synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=1.0)
    for lr, share in ((0.1, 0.0), (1e-30, 1.0)):
        optimizer.param_groups[0]["lr"] = lr
        for x, y in task_batches(0, 20 if lr == 0.1 else 600, torch.float32):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        told = synapses.diagnose().still_share
        assert told is not None
        assert told == pytest.approx(share, abs=0.15)  # of ten samples, the first is one of the fast steps
    assert synapses._state.tasks == 0


def test_a_closure_counts_as_any_step_does() -> None:
    bench = Bench()
    ((x, y),) = task_batches(0, 1)

    def closure() -> Tensor:
        bench.optimizer.zero_grad()
        loss = F.cross_entropy(bench.model(x), y)
        loss.backward()
        return loss

    for _ in range(6):
        bench.optimizer.step(closure)  # type: ignore[arg-type]
    assert bench.synapses.diagnose().still_share == 0.0


# What has no synapses.


def test_parameters_without_synapses_are_named_or_placed() -> None:
    model, extra = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)), nn.Parameter(torch.ones(5))
    frozen = nn.Parameter(torch.ones(7), requires_grad=False)
    groups: list[dict[str, Any]] = [
        {"params": model[0].parameters()},
        {"params": model[1].parameters(), "c": None},
        {"params": [frozen, extra], "c": None},
    ]
    optimizer = torch.optim.Adam(groups)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=0.1)
    told = synapses.diagnose()
    assert told.uncovered == ("1.weight", "1.bias", "parameter 1 of group 2")
    assert told.covered_share == pytest.approx(28 / (28 + 15 + 5))
    (finding,) = told.findings
    assert finding.what == "uncovered"
    assert "41.7%" in finding.message
    assert "1.weight, 1.bias, parameter 1 of group 2;" in finding.message


def test_names_that_the_optimizer_was_given_are_told_and_of_many_the_first_five() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    optimizer = torch.optim.Adam(model.named_parameters())
    synapses = si.SynapticIntelligence(list(model.named_parameters())[:1], optimizer, c=0.5, xi=0.1)
    told = synapses.diagnose()
    assert told.uncovered == ("0.bias", *(f"{i}.{kind}" for i in range(1, 5) for kind in ("weight", "bias")))
    assert "0.bias, 1.weight, 1.bias, 2.weight, 2.bias and 4 more;" in told.findings[0].message


def test_frozen_parameters_are_not_missed() -> None:
    model = small_model()
    next(model.parameters()).requires_grad_(False)
    optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=0.1)
    told = synapses.diagnose()
    assert (told.uncovered, told.covered_share) == ((), 1.0)


def test_frozen_parameters_with_synapses_do_not_count_as_trained() -> None:
    body, head = nn.Linear(6, 4), nn.Linear(4, 3)
    body.requires_grad_(False)
    body.bias.requires_grad_(True)
    groups: list[dict[str, Any]] = [{"params": body.parameters()}, {"params": head.parameters(), "c": None}]
    optimizer = torch.optim.Adam(groups)
    named = nn.ModuleList([body, head]).named_parameters()
    told = si.SynapticIntelligence(named, optimizer, c=0.5, xi=0.1).diagnose()
    assert told.covered_share == pytest.approx(4 / (4 + 15))
    assert told.uncovered == ("1.weight", "1.bias")


# One head.


def train_on(classes: list[int], model: nn.Module, optimizer: torch.optim.Optimizer, mask: bool) -> Tensor:
    y = torch.tensor(classes * 4)
    x = F.one_hot(y, 6).double() + 0.1 * torch.randn(len(y), 6, dtype=torch.float64)
    optimizer.zero_grad()
    logits = model(x)
    if mask:
        hidden = torch.ones_like(logits, dtype=torch.bool)
        hidden[:, classes] = False
        logits = logits.masked_fill(hidden, -math.inf)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    optimizer.step()
    return y


@pytest.mark.parametrize(
    ("tasks", "mask", "due"),
    [
        ([[0, 1], [2, 3], [4, 5]], False, True),
        ([[0, 1], [2, 3], [4, 5]], True, False),
        ([[0, 1, 2], [0, 1, 2], [2, 1, 0]], False, False),
    ],
    ids=["class-incremental, one head", "class-incremental, masked heads", "domain-incremental"],
)
@pytest.mark.parametrize("protect_head", [True, False])
def test_one_head_is_found_in_a_class_incremental_stream_alone(
    tasks: list[list[int]], mask: bool, due: bool, protect_head: bool
) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 6)).double()
    groups: list[dict[str, Any]] = [
        {"params": model[:3].parameters()},
        {"params": model[3].parameters(), **({} if protect_head else {"c": None})},
    ]
    optimizer = torch.optim.Adam(groups, lr=1e-2)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=0.1)
    for number, classes in enumerate(tasks):
        for _ in range(3):
            y = train_on(classes, model, optimizer, mask)
            synapses.observe(1.0, y)
        found = [finding for finding in synapses.diagnose().findings if finding.what != "uncovered"]
        if due and number:
            (finding,) = found
            assert finding.what == "single-head"
            assert f"moves the outputs of {2 * number} old ones" in finding.message
        else:
            assert found == []
        synapses.consolidate()  # which warns of nothing


@pytest.mark.parametrize("mask", [False, True])
def test_the_order_of_the_optimizers_groups_does_not_matter(mask: bool) -> None:
    body, head = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh()), nn.Linear(8, 6)
    model = nn.Sequential(body, head).double()
    optimizer = torch.optim.Adam([{"params": head.parameters()}, {"params": body.parameters()}], lr=1e-2)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=0.1)
    for classes in ([0, 1], [2, 3]):
        for _ in range(3):
            synapses.observe(1.0, train_on(classes, model, optimizer, mask))
        if synapses.tasks == 0:
            synapses.consolidate()
    assert [finding.what for finding in synapses.diagnose().findings] == ["single-head"] * (not mask)


def test_a_head_that_was_not_named_is_seen() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    synapses = si.SynapticIntelligence(list(model.named_parameters())[:2], optimizer, c=0.5, xi=0.1)
    for classes in ([0, 1], [2, 3]):
        for _ in range(3):
            synapses.observe(1.0, train_on(classes, model, optimizer, mask=False))
        if synapses.tasks == 0:
            synapses.consolidate()
    assert [finding.what for finding in synapses.diagnose().findings] == ["uncovered", "single-head"]


def test_targets_of_a_regression_are_passed_over() -> None:
    bench = Bench().in_second_task()
    bench.synapses.observe(1.0, torch.rand(4))
    assert bench.found == []


# Steps that were not finite, and the end of a task.


def test_steps_that_were_not_finite_are_counted_and_still_warned_of_later() -> None:
    bench = Bench()
    bench.train(0, 2)
    next(bench.model.parameters()).grad = torch.full((8, 6), math.inf, dtype=torch.float64)
    bench.optimizer.step()
    for _ in range(2):
        told = bench.synapses.diagnose()
        assert told.nonfinite_steps == 1
        assert [finding.what for finding in told.findings] == ["nonfinite"]
    with pytest.warns(si.SynapseWarning, match="1 optimizer steps"):
        bench.synapses.state_dict()


def test_a_warning_that_is_an_error_leaves_the_task_open() -> None:
    bench = Bench(torch.optim.SGD, lr=0.05).train(0)
    bench.synapses.c = 1e6
    before = copy.deepcopy(bench.synapses.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", si.SynapseWarning)
        with pytest.raises(si.SynapseWarning, match="times what SGD can follow"):
            bench.synapses.consolidate()
    assert same(before, bench.synapses.state_dict())
    bench.synapses.c = 0.5
    bench.synapses.consolidate()
    assert bench.synapses.tasks == 1


@pytest.mark.parametrize("inside", [False, True], ids=["hooks", "inside"])
def test_a_schedule_that_ends_at_zero_does_not_hide_that_steps_diverge(inside: bool) -> None:
    p = nn.Parameter(torch.ones(1, dtype=torch.float64))
    if inside:
        optimizer: Any = si.optim.SGD([("w", p)], lr=0.1, c=1.0, xi=0.1)
        synapses = optimizer.synapses
    else:
        optimizer = torch.optim.SGD([p], lr=0.1)
        synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=0.1)
    given = []
    for _ in range(3):
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
            optimizer.zero_grad()
            (1e-3 * p.sin().sum()).backward()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                optimizer.step()
            given += [(synapses.tasks, step, str(warning.message)) for warning in caught]
        optimizer.param_groups[0]["lr"] = 0.0
        synapses.consolidate()  # without a warning
        synapses._state.omega["w"].fill_(15.0)
    # 2 * 0.1 * 15 at first, over the bound 2: then less, and 0 in the end. It is said once, as it comes back each time.
    ((task, step, message),) = given
    assert task == 1
    assert 0 < step < 64
    assert f"the pull on 'w' is {1.5 * (1 - step / 200):.3g} times what SGD can follow" in message


@pytest.mark.parametrize("change", ["lr", "c", "attach"])
def test_a_rate_or_strength_that_is_raised_in_a_task_is_seen(change: str) -> None:
    bench = Bench(torch.optim.SGD, lr=1e-3, c=0.01).in_second_task(steps=5)
    ratio = bench.synapses.diagnose().stability
    assert ratio is not None
    assert ratio < 1
    if change == "lr":
        bench.optimizer.param_groups[0]["lr"] *= 3 / ratio
    elif change == "c":
        bench.synapses.c = 0.01 * 3 / ratio
    else:
        bench.optimizer = torch.optim.SGD(bench.model.parameters(), lr=1e-3 * 3 / ratio)
        bench.synapses.attach(bench.optimizer)
    for p in bench.model.parameters():
        p.grad = torch.zeros_like(p)
    states = [bench.model.state_dict()]

    def steps() -> None:
        for _ in range(128):
            states[:] = [copy.deepcopy(bench.model.state_dict())]
            bench.optimizer.step()

    for _ in range(2):  # as warnings are errors here, it stays one
        with pytest.raises(si.SynapseWarning, match="is 3 times what SGD can follow"):
            steps()
        assert same(states[0], bench.model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", si.SynapseWarning)
        bench.optimizer.step()
    assert not same(states[0], bench.model.state_dict())


def test_what_was_said_at_the_end_of_a_task_is_not_said_again_by_its_steps() -> None:
    bench = Bench(torch.optim.SGD, lr=1e-3, c=1.0).train(0)
    bench.synapses.c = 1e9
    with pytest.warns(si.SynapseWarning, match="times what SGD can follow"):
        bench.synapses.consolidate()
    for p in bench.model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(200):
        bench.optimizer.step()


def test_diagnose_neither_warns_of_an_edit_nor_uses_up_the_warning() -> None:
    bench = Bench().in_second_task()
    with torch.no_grad():
        next(bench.model.parameters()).add_(1.0)
    for _ in range(2):  # warnings are errors here
        told = bench.synapses.diagnose()
        assert "edited" in [finding.what for finding in told.findings]
    by_hand = sum(
        0.5 * (bench.synapses.omega[name] * (p.detach() - bench.synapses.anchor[name]) ** 2).sum()
        for name, p in bench.model.named_parameters()
    )
    assert told.penalty == pytest.approx(float(by_hand), rel=1e-12)
    with pytest.warns(si.SynapseWarning, match="weights were changed between optimizer steps"):
        bench.train(1, 1)
    assert "edited" not in [finding.what for finding in bench.synapses.diagnose().findings]


def test_diagnose_looks_at_parameters_that_took_the_places_of_others_and_follows_none() -> None:
    bench = Bench().in_second_task()
    known = dict(bench.synapses._state.parameters)
    group = bench.optimizer.param_groups[0]
    old, group["params"] = group["params"], [nn.Parameter(p.detach() + 1) for p in group["params"]]
    told = bench.synapses.diagnose()
    omega, anchor = bench.synapses.omega, bench.synapses.anchor
    by_hand = sum(
        0.5 * (omega[name] * (p.detach() - anchor[name]) ** 2).sum()
        for name, p in zip(known, group["params"], strict=True)
    )
    assert told.penalty == pytest.approx(float(by_hand), rel=1e-12)
    assert all(p is known[name] for name, p in bench.synapses._state.parameters.items())
    group["params"] = [nn.Parameter(torch.ones(2)) for _ in old]
    with pytest.raises(si.SynapseError, match="make new synapses for it"):
        bench.synapses.diagnose()


def test_a_finding_that_lasts_over_many_tasks_is_warned_of_once() -> None:
    bench, given = Bench(torch.optim.SGD, lr=1e-3), []
    for task in range(8):
        bench.synapses.c = 0.0
        bench.train(task % 2, 2)
        bench.synapses.c = 1e9 * (1 + task)  # so that each message would be another one
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bench.synapses.consolidate()
        given.append([str(warning.message) for warning in caught])
    assert [len(each) for each in given] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert "times what SGD can follow" in given[0][0]


def test_a_trigger_that_hears_of_no_step_is_found() -> None:
    bench = Bench()
    bench.synapses.trigger = si.triggers.Every(1000)
    bench.train(0, steps=1)  # of which it may still hear
    assert bench.synapses.diagnose().findings == ()
    bench.train(0, steps=1)
    (finding,) = bench.synapses.diagnose().findings
    assert finding.what == "unobserved"
    assert "of 2 steps it heard of none" in finding.message
    bench.synapses.observe(1.0)
    assert bench.synapses.diagnose().findings == ()
