"""What cannot be made right is refused, with the reason and with what to use instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from oracle import same, small_model
from stacks.forms import each_form, made
from stacks.plain import RATE, XI, C, adam, batches, synapses_of
from torch import Tensor, nn

import synaptic_intelligence as si

pytestmark = pytest.mark.stack("refused")

ZERO = r"\(ZeRO\) hides gradients from step hooks: use FSDP2 \(fully_shard\) instead"
NONE_HELD = r"holds none of the named parameters: .* ZeRO does \(use FSDP2, fully_shard, instead\)"


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@contextmanager
def torch_about_itself() -> Iterator[None]:
    """Let pass what torch warns of when it imports its own deprecated parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def refuses(optimizer: Any, model: nn.Module, error: type[Exception], message: str) -> None:
    """Fail unless an optimizer is refused, for new synapses and for those that are there, which then go on."""
    with pytest.raises(error, match=message):
        synapses_of(model, optimizer)
    other = small_model(torch.float32)
    usual = adam(other.parameters())
    synapses = synapses_of(other, usual)
    with pytest.raises(error, match=message):
        synapses.attach(optimizer)
    backward(other)
    usual.step()
    synapses.consolidate()


def backward(model: nn.Module) -> None:
    x, y = batches(0)[0]
    F.cross_entropy(model(x), y).backward()


# ZeRO.


@pytest.mark.usefixtures("_one_process")
def test_zero_redundancy_optimizer() -> None:
    """torch's own ZeRO: use FSDP2."""
    with torch_about_itself():
        from torch.distributed.optim import ZeroRedundancyOptimizer

    model = small_model(torch.float32)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=RATE)
    with pytest.raises(TypeError, match=f"ZeroRedundancyOptimizer {ZERO}"):
        synapses_of(model, optimizer)
    synapses_of(model, adam(model.parameters()))  # nothing was claimed


# DeepSpeed, as far as it matters here: the names and bases of its classes, and the flat copies that it gives to the
# optimizer that it was given. The real ones need an accelerator.


class DeepSpeedOptimizer:
    """The root of DeepSpeed's optimizers; no optimizer of torch."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.masters: list[Tensor] = []
        self.held: list[list[Tensor]] = []
        for group in optimizer.param_groups:
            self.held.append(group["params"])
            self.masters.append(torch.cat([p.detach().flatten() for p in group["params"]]).requires_grad_())
            group["params"] = [self.masters[-1]]

    def make_states(self) -> None:
        """As DeepSpeed does when it starts: a step with gradients of zero."""
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        self.optimizer.step()


class ZeROOptimizer(DeepSpeedOptimizer):
    """Of all stages."""


@final
class DeepSpeedZeroOptimizer(ZeROOptimizer):
    """Stages 1 and 2."""


@final
class DeepSpeedZeroOptimizer_Stage3(ZeROOptimizer):  # noqa: N801
    """Stage 3: the optimizer holds a part only while it steps."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        for group in optimizer.param_groups:
            group["params"] = []


@final
class BF16_Optimizer(ZeROOptimizer):  # noqa: N801
    """Stage 1 in bfloat16."""


@final
class FP16_Optimizer(DeepSpeedOptimizer):  # noqa: N801
    """Float16 without ZeRO."""


DEEPSPEED = [DeepSpeedZeroOptimizer, DeepSpeedZeroOptimizer_Stage3, BF16_Optimizer, FP16_Optimizer]


@pytest.mark.parametrize("kind", DEEPSPEED)
def test_the_optimizer_that_deepspeed_returns(kind: type[DeepSpeedOptimizer]) -> None:
    """ZeRO of every stage, by a stand-in for its class: use FSDP2."""
    model = small_model(torch.float32)
    refuses(kind(adam(model.parameters())), model, TypeError, f"{kind.__name__} {ZERO}")


@pytest.mark.parametrize("kind", [DeepSpeedZeroOptimizer, BF16_Optimizer, FP16_Optimizer])
def test_the_optimizer_inside_that_of_deepspeed(kind: type[DeepSpeedOptimizer]) -> None:
    """Its parameters are flat copies: the message does not send the user to add the model's own to it."""
    model = small_model(torch.float32)
    refuses(kind(adam(model.parameters())).optimizer, model, ValueError, NONE_HELD)


@each_form
@pytest.mark.parametrize("kind", [DeepSpeedZeroOptimizer, BF16_Optimizer, FP16_Optimizer])
def test_synapses_made_before_deepspeed(kind: type[DeepSpeedOptimizer], form: str) -> None:
    """DeepSpeed's first step, which makes its state, raises; what the message proposes is refused with the reason."""
    model = small_model(torch.float32)
    optimizer, synapses = made(form, "Adam", model)
    wrapped = kind(optimizer)
    with pytest.raises(si.SynapseError, match=r"groups were taken apart: attach\(optimizer\) a new one"):
        wrapped.make_states()
    if form == "hooks":
        with pytest.raises(ValueError, match=NONE_HELD):
            synapses.attach(wrapped.optimizer)


# FSDP1.


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("original", [False, True])
def test_fsdp1(original: bool) -> None:
    """`FullyShardedDataParallel`, with flat parameters or `use_orig_params`: use FSDP2."""
    with torch_about_itself():
        from torch.distributed.fsdp import FullyShardedDataParallel

        warnings.filterwarnings("ignore", "FSDP is switching to use `NO_SHARD`", UserWarning)  # in one process
        model = FullyShardedDataParallel(
            small_model(torch.float32), use_orig_params=original, device_id=torch.device("cpu")
        )
    with pytest.raises(TypeError, match=r"is flattened \(FSDP1\), .* use FSDP2, fully_shard"):
        synapses_of(model, adam(model.parameters()))
    with pytest.raises(TypeError, match=r"is flattened \(FSDP1\)"):
        si.optim.Adam(model.named_parameters(), lr=RATE, c=C, xi=XI)


# Optimizers that step inside backward.


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_torchs_optimizer_in_backward() -> None:
    """`_apply_optimizer_in_backward`: step one optimizer after `backward()` instead."""
    with torch_about_itself():
        from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward

    model = small_model(torch.float32)
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": RATE})
    message = r"stepped inside backward\(\) by an optimizer of its own, .*: step one optimizer after backward\(\)"
    with pytest.raises(TypeError, match=message):
        synapses_of(model, adam(model.parameters()))


@each_form
def test_one_optimizer_for_each_parameter_in_backward(form: str) -> None:
    """The recipe of torch's tutorial (`register_post_accumulate_grad_hook`): its first step raises, nothing moves."""
    model = small_model(torch.float32)
    optimizers: dict[Tensor, torch.optim.Optimizer] = {}
    for name, p in model.named_parameters():
        if form == "hooks":
            optimizers[p] = torch.optim.Adam([p], lr=RATE)
            si.SynapticIntelligence([(name, p)], optimizers[p], c=C, xi=XI)
        else:
            optimizers[p] = si.optim.Adam([(name, p)], lr=RATE, c=C, xi=XI)

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    before = weights_of(model)
    message = r"steps inside backward\(\), where gradients are not complete: step after it instead"
    with pytest.raises(si.SynapseError, match=message):
        backward(model)
    assert same(weights_of(model), before)


def test_an_optimizer_in_backward_that_comes_after_the_synapses() -> None:
    """Steps that others take are none: `consolidate()` raises, and says where a step looks for its gradient."""
    model = small_model(torch.float32)
    optimizer = adam(model.parameters())
    synapses = synapses_of(model, optimizer)
    others = {p: torch.optim.SGD([p], lr=RATE) for p in model.parameters()}

    def step(parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        others[parameter].step()
        others[parameter].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    backward(model)
    optimizer.step()
    with pytest.raises(si.SynapseError, match=r"train first \(a step that finds no gradient in p.grad is none\)"):
        synapses.consolidate()


# Wrappers and optimizers that keep gradients to themselves.


@final
class WrapsAnother(torch.optim.Optimizer):
    """As Accelerate's, torch's PostLocalSGDOptimizer and many others: a subclass that only passes on."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optim = optimizer

    param_groups = property(lambda self: self.optim.param_groups)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return self.optim.step(closure)


@final
class MixedPrecision:
    """As in apex and Megatron: holds an optimizer, and is none of torch's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_a_wrapper_without_hooks_of_its_own() -> None:
    """A subclass that passes its steps on: give the synapses the optimizer inside it, which is then right."""
    model = small_model(torch.float32)
    wrapper = WrapsAnother(adam(model.parameters()))
    refuses(wrapper, model, TypeError, "WrapsAnother wraps another, .*: pass the one inside it")
    synapses = synapses_of(model, wrapper.optim)
    backward(model)
    wrapper.step()
    synapses.consolidate()


def test_a_wrapper_that_is_no_optimizer() -> None:
    """Mixed-precision wrappers as apex has them: a `torch.optim.Optimizer` is asked for."""
    model = small_model(torch.float32)
    wrapper = MixedPrecision(adam(model.parameters()))
    refuses(wrapper, model, TypeError, r"must be a torch\.optim\.Optimizer, not MixedPrecision")


@final
class KeepsGradients(torch.optim.SGD):
    """As distributed fused optimizers do: takes gradients into buckets of its own as soon as they are there."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.buckets: dict[Tensor, Tensor] = {}
        for p in self.param_groups[0]["params"]:
            p.register_post_accumulate_grad_hook(self.take)

    def take(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.buckets[parameter], parameter.grad = parameter.grad, None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for parameter, gradient in self.buckets.items():
            parameter.sub_(gradient, alpha=self.param_groups[0]["lr"])


def test_an_optimizer_that_keeps_gradients_to_itself() -> None:
    """The synapses find none in `p.grad`: `consolidate()` raises instead of ending a task without a path."""
    model = small_model(torch.float32)
    optimizer = KeepsGradients(model.parameters(), lr=RATE)
    synapses = synapses_of(model, optimizer)
    before = weights_of(model)
    for _ in range(3):
        backward(model)
        optimizer.step()
    assert not same(weights_of(model), before)
    with pytest.raises(si.SynapseError, match=r"a step that finds no gradient in p.grad is none"):
        synapses.consolidate()
