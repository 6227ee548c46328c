"""Which parameter is which: names, and their places in an optimizer."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, final

from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.strength import Strength, checked_strength, refuse_unfit

# Which optimizer's synapses hold which parameter, so that a second consolidator can be refused. Weak on both sides:
# it keeps neither alive, and forgets them when they go.
_holders: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

# The parameters whose synapses left an optimizer, each with whose they were (Binding.line), and the hook that makes its
# steps raise until they are back.
_left: weakref.WeakKeyDictionary[Optimizer, tuple[RemovableHandle, WeakTensorKeyDictionary]] = (
    weakref.WeakKeyDictionary()
)

PreHook = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]] | None]
PostHook = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]

# Wrappers put these into the names of parameters; the saved names must not depend on how a model was wrapped.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

# Torch's own form of ZeRO, and the root of DeepSpeed's optimizers, which are none of torch's.
_ZERO = {"ZeroRedundancyOptimizer", "DeepSpeedOptimizer"}


def canonical_parameters(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the parameters by the names that they have in the bare model, tied ones once.

    ``_orig_mod.`` (torch.compile) is removed anywhere in a name, ``module.`` (DDP) where every name begins with it.

    Args:
        named: as ``model.named_parameters()`` gives them, perhaps filtered.

    Raises:
        TypeError: not pairs of name and tensor, or parameters that are complex, integer or not yet initialised,
            flattened by FSDP1, or stepped inside ``backward()``.
        ValueError: no parameter at all, or two parameters of one name.

    Example:
        >>> import torch
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> list(canonical_parameters([("_orig_mod.w", p), ("_orig_mod.tied", p)]))
        ['w']
    """
    pairs: list[tuple[str, Tensor]] = []
    for pair in named:
        match pair:
            case (str() as name, Tensor() as parameter):
                pairs.append((".".join(part for part in name.split(".") if part not in _WRAPPERS), parameter))
            case _:
                raise TypeError("named must be pairs of name and parameter: pass model.named_parameters()")
    if not pairs:
        raise ValueError("named holds no parameters; an iterator that was used up already? pass a fresh one")
    if all(name.startswith("module.") for name, _ in pairs):
        pairs = [(name.removeprefix("module."), parameter) for name, parameter in pairs]
    parameters: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, parameter in pairs:
        if id(parameter) in seen:
            continue
        _refuse_unusable(name, parameter)
        if not parameter.is_floating_point():
            raise TypeError(
                f"parameter {name!r} is {parameter.dtype}: only real floating-point parameters have synapses"
            )
        if name in parameters:
            raise ValueError(f"two different parameters are named {name!r}: give each its own name")
        seen.add(id(parameter))
        parameters[name] = parameter
    return parameters


def _refuse_unusable(name: str, parameter: Tensor) -> None:
    """Raise a TypeError for a parameter that has no values yet, or whose gradient no step hook will see whole."""
    if is_lazy(parameter):
        raise TypeError(f"parameter {name!r} is not initialised yet: run one forward pass of the model first")
    if parameter.is_meta:
        raise TypeError(f"parameter {name!r} has no values yet (meta device): call to_empty and initialise it first")
    if getattr(parameter, "_fsdp_flattened", False):
        raise TypeError(
            f"parameter {name!r} is flattened (FSDP1), so its part here has no place: use FSDP2, fully_shard"
        )
    if getattr(parameter, "_in_backward_optimizers", None):
        raise TypeError(
            f"parameter {name!r} is stepped inside backward() by an optimizer of its own, where gradients are not "
            "complete: step one optimizer after backward() instead"
        )


@final
class Binding:
    """The places of named parameters in one optimizer.

    Frozen parameters that the optimizer does not hold, and groups with the option ``c=None``, are left out.

    Args:
        parameters: by canonical name.
        optimizer: any ``torch.optim.Optimizer`` with step hooks.
        spare: names of those that need not be in it.

    Attributes:
        places: the parameters that have synapses, as the index of their group and their position in it.
        line: the same object for all bindings that the same synapses have had, one after the other.

    Raises:
        TypeError: not an optimizer, one that hides another inside, ZeRO, or LBFGS.
        ValueError: a parameter is not in the optimizer, or twice; none is; a group's ``c`` is no strength.

    Example:
        >>> import torch
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> binding = Binding({"w": p}, torch.optim.SGD([p], lr=0.1))
        >>> list(binding.places.items())
        [('w', (0, 0))]
    """

    def __init__(self, parameters: Mapping[str, Tensor], optimizer: Optimizer, *, spare: Collection[str] = ()) -> None:
        kind = type(optimizer).__name__
        if _ZERO & {cls.__name__ for cls in type(optimizer).__mro__}:
            raise TypeError(
                f"optimizer {kind} (ZeRO) hides gradients from step hooks: use FSDP2 (fully_shard) instead, which "
                "shards as much"
            )
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, not {kind}: of a wrapper, pass the one inside")
        if "_optimizer_step_pre_hooks" not in vars(optimizer):
            raise TypeError(f"optimizer {kind} wraps another, and has no hooks of its own: pass the one inside it")
        if isinstance(optimizer, LBFGS):
            raise TypeError("optimizer LBFGS evaluates the loss several times in a step, so a step has no one gradient")
        places: dict[int, tuple[int, int]] = {}
        for index, group in enumerate(optimizer.param_groups):
            if group.get("c") is not None:
                checked_strength(group["c"], f"c of parameter group {index}")
            for position, parameter in enumerate(group["params"]):
                if id(parameter) in places:
                    raise ValueError(f"the optimizer holds a parameter twice, in group {index}: give it each one once")
                places[id(parameter)] = (index, position)
        trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
        if places and trained and not any(id(parameter) in places for parameter in parameters.values()):
            raise ValueError(
                "the optimizer holds none of the named parameters: it is another model's, or holds copies in their "
                "place, as DeepSpeed's ZeRO does (use FSDP2, fully_shard, instead); or FSDP2 has left the model whole "
                "after a forward pass (call model.reshard() first)"
            )
        self.places: dict[str, tuple[int, int]] = {}
        for name, parameter in parameters.items():
            if id(parameter) not in places:
                if parameter.requires_grad and name not in spare:
                    raise ValueError(
                        f"parameter {name!r} is not in the optimizer: add it there, or leave it out of the named ones"
                    )
                continue
            group = optimizer.param_groups[places[id(parameter)][0]]
            if "c" not in group or group["c"] is not None:
                self.places[name] = places[id(parameter)]
        self.optimizer = optimizer
        self.line = object()
        self._members: dict[int, list[str]] = {}
        for name, (index, _) in self.places.items():
            self._members.setdefault(index, []).append(name)
        self._hooks: list[RemovableHandle] = []
        # Where `c` is an option of the optimizer, every group has one; these have that which was given for all.
        given, groups = optimizer.defaults.get("c"), optimizer.param_groups
        self._following = [i for i in self._members if given is not None and groups[i].get("c") == given]

    def successor(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: Optimizer,
        c: Strength,
        *,
        of_any: bool,
        spare: Collection[str] = (),
    ) -> Binding:
        """Return a binding of parameters to another optimizer, which gives synapses to the same ones, or to any.

        Raises:
            TypeError, ValueError: as for the class, or the strength does not fit.
            SynapseError: others would have synapses.
        """
        binding = Binding(parameters, optimizer, spare=spare)
        binding.line = self.line
        binding.fitting(c)
        other = sorted(set(binding.places) ^ set(self.places))
        if other and not of_any:
            raise SynapseError(
                f"the new optimizer would change which parameters have synapses: {other}; give its groups the same "
                "c=None, freeze or unfreeze before the synapses are made, or say in surgery=Surgery(...) what changed"
            )
        return binding

    def hold(self, before: PreHook, after: PostHook, instead_of: Binding | None = None) -> None:
        """Hook into the optimizer's steps, and claim its parameters.

        Raises:
            SynapseError: other synapses than ``instead_of`` hold one of the parameters.
        """
        parameters = self.parameters()
        if any(_holder(parameter) not in (None, instead_of) for parameter in parameters.values()):
            gc.collect()  # synapses and optimizer hold each other: those that were dropped may not be gone yet
        for name, parameter in parameters.items():
            if _holder(parameter) not in (None, instead_of):
                raise SynapseError(f"parameter {name!r} has synapses already: attach(optimizer) or detach() those")
        hooks = [
            self.optimizer.register_step_pre_hook(before),
            self.optimizer.register_step_post_hook(after),
        ]
        if instead_of is not None:
            instead_of.release()
        self._hooks = hooks
        for parameter in parameters.values():
            _holders[parameter] = weakref.ref(self)
        if self.optimizer in _left:
            hook, left = _left[self.optimizer]
            inside = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
            # What is back, what was replaced and is not stepped any more, and what these synapses have let go for good:
            # they are here, with all that they know of.
            for parameter, line in list(left.items()):
                if _holder(parameter) is self or id(parameter) not in inside or line is self.line:
                    del left[parameter]
            if not len(left):
                hook.remove()
                del _left[self.optimizer]

    def release(self) -> None:
        """Take the hooks off, and leave one that refuses steps: they would be neither seen nor pulled."""
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self.optimizer not in _left:
            hook = self.optimizer.register_step_pre_hook(_refuse_step)
            _left[self.optimizer] = hook, WeakTensorKeyDictionary()
        _, left = _left[self.optimizer]
        for parameter in list(_holders):
            if _holder(parameter) is self:
                del _holders[parameter]
                left[parameter] = self.line

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Note that the optimizer holds ``new`` in the place of ``old``."""
        _holders.pop(old, None)
        _holders[new] = weakref.ref(self)

    def parameters(self) -> dict[str, Tensor]:
        """Return the optimizer's parameters at the places, by name: it may hold new ones since it was bound.

        Raises:
            SynapseError: a place is gone.
        """
        groups = self.optimizer.param_groups
        try:
            return {name: groups[index]["params"][position] for name, (index, position) in self.places.items()}
        except IndexError as error:
            raise SynapseError(
                "the optimizer's parameter groups were taken apart: attach(optimizer) a new one"
            ) from error

    def strength(self, group: dict[str, Any], names: Iterable[str], default: Strength) -> Strength:
        """Return the strength of a parameter group, its own or else the default.

        Raises:
            SynapseError: its own is None by now.
            ValueError, TypeError: it is no strength, or one for each replicate that does not fit the parameters.
        """
        c = default
        if "c" in group:
            if group["c"] is None:
                raise SynapseError("a parameter group with synapses now has c=None: use c=0.0 to turn its pull off")
            c = checked_strength(group["c"], "c of a parameter group")
        if isinstance(c, tuple):
            parameters = self.parameters()
            refuse_unfit(c, self.optimizer, {name: parameters[name] for name in names})
        return c

    def fitting(self, default: Strength) -> Strength:
        """Return the default strength, if it and those of the groups fit the optimizer and the parameters.

        Raises:
            SynapseError, ValueError, TypeError: as :meth:`strength`.
        """
        refuse_unfit(default, self.optimizer, {})
        for _, group, names in self.groups():
            self.strength(group, names, default)
        return default

    def own_strengths(self) -> list[int]:
        """Return the parameter groups that have synapses and set a strength of their own, by index."""
        groups = self.optimizer.param_groups
        return [index for index in self._members if "c" in groups[index] and index not in self._following]

    def common_strength(self, otherwise: Strength) -> Strength:
        """Return the strength of all groups that set none of their own, where it is an option of the optimizer."""
        found = [self.optimizer.param_groups[index]["c"] for index in self._following]
        return found[0] if found and all(c == found[0] for c in found) else otherwise

    def change_strength(self, c: Strength) -> None:
        """Set the strength of all groups that set none of their own, where it is an option of the optimizer."""
        for index in self._following:
            self.optimizer.param_groups[index]["c"] = c

    def left_out(self, parameters: Mapping[str, Tensor]) -> dict[str, weakref.ref[Tensor]]:
        """Return the parameters that have no synapses, by name, without keeping them alive."""
        return {name: weakref.ref(p) for name, p in parameters.items() if name not in self.places}

    def groups(self) -> list[tuple[int, dict[str, Any], list[str]]]:
        """Return each parameter group of the optimizer, by its index, with the names of its parameters that are bound.

        The lists of names are the binding's own.
        """
        return [(index, self.optimizer.param_groups[index], names) for index, names in self._members.items()]


def living(references: Mapping[str, weakref.ref[Tensor]]) -> dict[str, Tensor]:
    """Return the tensors that are still there.

    Example:
        >>> import torch
        >>> kept = torch.ones(1)
        >>> living({"kept": weakref.ref(kept), "gone": weakref.ref(torch.ones(1))})
        {'kept': tensor([1.])}
    """
    found = {name: reference() for name, reference in references.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _holder(parameter: Tensor) -> Binding | None:
    reference = _holders.get(parameter)
    binding: Binding | None = reference() if reference is not None else None
    return binding


def _refuse_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    _, left = _left[optimizer]
    if len(left):  # else the parameters are gone
        raise SynapseError(
            "the synapses of this optimizer were detached or moved to another: step that one, or attach(optimizer) them"
        )
