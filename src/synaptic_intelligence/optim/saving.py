"""The state of an optimizer with synapses inside: what is offered to be saved, and the checks of what is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance import PathIntegral
from synaptic_intelligence.importance_file import SCHEMA, ImportanceFile, from_state_dict
from synaptic_intelligence.optim.kind import Kind, Options
from synaptic_intelligence.state import Named, State

PROGRESS = ("tasks", "steps", "untouched")
"""Options of each group in a state_dict, and there alone."""

NOTED = ("origin", "way_back")
"""As ``PROGRESS``, and missing in states from before there were any."""

_KINDS = ("path", "anchor", "omega")


def offered(
    optimizer: Optimizer, kind: Kind, kept: State, anchor: Mapping[str, Tensor], packed: dict[str, Any]
) -> dict[str, Any]:
    """Return a state_dict with all that there may be: distributed checkpointing reads only what is offered.

    Args:
        optimizer: whose state it is.
        kind: which of torch's it is.
        kept: its synapses.
        anchor: their anchor as it is now.
        packed: what torch has made of the state.
    """
    kept.warn_of_nonfinite()
    noted = {name: getattr(kept, name) for name in (*PROGRESS, *NOTED)}
    groups = [{**group, **noted} for group in packed["param_groups"]]
    states = dict(packed["state"])
    # Zeros, where there is no omega yet; and an anchor that still follows the weights must not write over what is read
    # into a state that was given.
    omega = kept.omega_or_zeros()
    anchor = {name: tensor.clone() for name, tensor in anchor.items()} if kept.untouched else anchor
    named = {id(parameter): name for name, parameter in kept.parameters.items()}
    for options, saved in zip(optimizer.param_groups, groups, strict=True):
        for parameter, key in zip(options["params"], saved["params"], strict=True):
            state = optimizer.state.get(parameter, {})
            states[key] = {**kind.offered(options, state, parameter), **states.get(key, {})}
            if id(parameter) in named:
                name = named[id(parameter)]
                states[key].update(path=kept.path[name], anchor=anchor[name], omega=omega[name])
    return {**packed, "state": states, "param_groups": groups}


def checked(
    optimizer: Optimizer, kind: Kind, kept: State, synapses: Consolidator, given: Mapping[str, Any]
) -> tuple[ImportanceFile, dict[str, Named]] | None:
    """Check what is to be loaded, before anything is changed, and return what it has of the synapses; None: nothing.

    Raises:
        SynapseError: the state does not fit these parameters, or is damaged, or of another optimizer.
        TypeError, ValueError: a strength or a damping in it is none.
    """
    saved, groups = given["param_groups"], optimizer.param_groups
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in groups]:
        return None  # torch says what is wrong
    for group, own in zip(saved, groups, strict=True):
        _check_moments(kind, group, own, given["state"])
    places = synapses._binding.places
    states = {name: given["state"].get(saved[i]["params"][j], {}) for name, (i, j) in places.items()}
    if not any(each in state for state in states.values() for each in _KINDS):
        warn("the state that is loaded has no synapses: these stay as they are")
        return None
    # torch.distributed.checkpoint leaves out what needs no gradient.
    frozen = [name for name, state in states.items() if not state and not kept.parameters[name].requires_grad]
    omega, anchor = synapses.omega, synapses.anchor
    for name in frozen:
        states[name] = {"path": kept.path[name], "anchor": anchor[name], "omega": omega[name]}
    progress = {key: saved[0][key] for key in PROGRESS if key in saved[0]}
    if len(progress) < len(PROGRESS):
        raise SynapseError(
            f"the state has synapses, but its groups lack {sorted({*PROGRESS} - {*progress})}: it is not of this "
            "optimizer, or was flattened (flatten_optimizer_state_dict), which cannot carry them"
        )
    for i, (group, own) in enumerate(zip(saved, groups, strict=True)):
        _check_strength(i, group, own)
    kinds = {each: {name: state[each] for name, state in states.items() if each in state} for each in _KINDS}
    noted = {key: saved[0][key] for key in NOTED if key in saved[0]}
    known = {"schema": SCHEMA, "estimator": PathIntegral.name, "settings": {}, "c": 0.0}
    file = from_state_dict({**known, **progress, **noted, **kinds})
    copies = kept.checked_copies(file, "the state")
    if frozen:
        warn(f"the state has nothing of {frozen}, which are frozen: their synapses stay as they are")
    for i, (group, own) in enumerate(zip(saved, groups, strict=True)):
        for option in ("c", "xi"):
            if group.get(option) != own[option]:
                warn(f"{option} of parameter group {i} is {group.get(option)} in the state, and was {own[option]}")
    return file, copies


def _check_strength(i: int, group: Options, own: Options) -> None:
    if (group.get("c") is None) != (own["c"] is None):
        raise SynapseError(f"parameter group {i} has c={own['c']}, and c={group.get('c')} in the state")
    if own["c"] is not None:
        checked_number(group["c"], f"c of parameter group {i} in the state", zero_is_fine=True)
        checked_number(group.get("xi"), f"xi of parameter group {i} in the state", zero_is_fine=False)


def _check_moments(kind: Kind, group: Options, own: Options, states: Mapping[Any, Any]) -> None:
    """Raise a SynapseError where torch would fail half-way, or only at a later step."""
    lacking = [option for option in kind.needed if option not in group]
    for key, parameter in zip(group["params"], own["params"], strict=True):
        state = states.get(key, {})
        lacking += kind.lacking(group, state)
        for name in kind.names:
            value = state.get(name)
            shape = torch.Size() if name == "step" else parameter.shape
            if isinstance(value, Tensor) and value.shape != shape:
                raise SynapseError(f"the state has a {name} of shape {list(value.shape)} for one of {list(shape)}")
            if value is not None and not isinstance(value, Tensor) and not (name == "step" and value >= 0):
                raise SynapseError(f"the state has {name}={value!r}, which cannot be")
    if lacking:
        raise SynapseError(
            f"the state lacks {sorted(set(lacking))}: it is of another optimizer, or was flattened "
            "(flatten_optimizer_state_dict), which cannot carry synapses"
        )
