"""Synapses after the model was changed: what is kept, what starts free, what goes, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence.binding import canonical_parameters
from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance import Importance
from synaptic_intelligence.importance.of_model import refuse_another_model
from synaptic_intelligence.importance_file import ImportanceFile, from_state_dict, to_state_dict
from synaptic_intelligence.sharding import anywhere, local, placed_like, processes_of, together, whole
from synaptic_intelligence.strength import Strength

Shapes = Mapping[str, torch.Size]


class Live(Protocol):
    """What surgery asks of synapses that are at work.

    Example: see :meth:`Surgery.attached`.
    """

    parameters: dict[str, Tensor]

    def edited(self) -> bool:
        """Whether weights were changed by other hands since the last step."""

    def snapshot(self, estimator: Importance, c: Strength) -> ImportanceFile:
        """Return all that they remember."""


@final
@dataclass(frozen=True, slots=True)
class Surgery:
    """What was done to a model between two tasks, by the names of its parameters; the rest has the shapes that it had.

    ``"head"`` means ``head``, ``head.weight`` and all else that is below it, ``""`` the whole model. Names are those of
    the bare model, without ``module.`` and ``_orig_mod.``, and, but for ``removed``, the new ones.

    Args:
        resized: larger or smaller in any dimension. Where old and new overlap, from index 0 of every dimension, the
            parameter must hold its old values; there importance and anchor are kept. The rest starts free.
        added: was not there. It starts free: omega 0, anchor at its value now.
        removed: is not there any more, by its old name. What was known of it is forgotten.
        replaced: another layer in the place of the old one, of the same shapes or not. It starts free.
        moved: of the same shape, but its values were changed by the surgery itself, as where an adapter is merged into
            its layer. Importance is kept, and the anchor is at its value now.
        renamed: old name or prefix to the new one, as ``{"q": "q.base_layer"}``. Of several that fit, the longest
            counts. ``{"": "model"}`` puts ``model.`` before every name, ``{"model": ""}`` takes it away. It comes
            first: what it names may be in one of the other fields too, by its new name.

    Raises:
        TypeError: a string in the place of a list of names, or names that are no strings.
        ValueError: a name that begins or ends with a dot, or a renaming of something to its own name.

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=1.0, xi=0.1)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> path = synapses.consolidate()
        >>> larger = torch.nn.Linear(2, 3)
        >>> with torch.no_grad():
        ...     for new, old in zip(larger.parameters(), model.parameters()):
        ...         new[:1] = old
        >>> state = si.Surgery(resized=["weight", "bias"]).state(synapses.state_dict(), larger.named_parameters())
        >>> state["omega"]["bias"]
        tensor([0.9091, 0.0000, 0.0000])
    """

    resized: Collection[str] = ()
    added: Collection[str] = ()
    removed: Collection[str] = ()
    replaced: Collection[str] = ()
    moved: Collection[str] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, given in {**self._declared(), "removed": self.removed}.items():
            object.__setattr__(self, kind, _checked_names(given, kind))
        if not isinstance(self.renamed, Mapping):
            raise TypeError(
                f'renamed must be old names with their new ones, such as {{"a": "b"}}: not {self.renamed!r}'
            )
        object.__setattr__(self, "renamed", dict(self.renamed))
        _checked_names([*self.renamed.keys(), *self.renamed.values()], "renamed")
        if same := [old for old, new in self.renamed.items() if old == new]:
            raise ValueError(f"renamed gives {same} the names that they had: leave them out")

    # What users and the consolidator call.

    def state(self, state: Mapping[str, Any], named: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
        """Return the state of synapses for the changed model, from what ``synapses.state_dict()`` gave before.

        Load it with ``load_state_dict`` into synapses made for the changed model. What is kept are the tensors of the
        given state themselves; nothing is changed in it.

        Args:
            state: from between two tasks, if the estimator integrates the path.
            named: ``model.named_parameters()`` of the changed model, with its weights, without those that will have no
                synapses. Frozen ones that have none in the state are left out.

        Raises:
            TypeError, ValueError: as the synapses raise for such parameters.
            SynapseError: something changed that is not named, or was named and did not change; there is the path of a
                task that has not ended; the weights are not those that the surgery says; the state is damaged.

        Example: see the class.
        """
        if not isinstance(state, Mapping):
            raise SynapseError(f"this is no state of synapses, but {type(state).__name__}: give what state_dict() gave")
        trigger = {key: value for key, value in state.items() if key == "trigger"}  # it knows nothing of parameters
        file = from_state_dict({key: value for key, value in state.items() if key not in trigger})
        return {**to_state_dict(self.applied(file, self._with_synapses(file, named))), **trigger}

    def file(self, old_path: str | Path, new_path: str | Path, named: Iterable[tuple[str, Tensor]]) -> None:
        """Write the importance file for the changed model, from the one that ``synapses.save`` wrote before.

        Where parameters are sharded, every process must call this, and the first one writes.

        Args:
            old_path: a file as :meth:`state` needs the state to be; it stays as it is.
            new_path: where the new one goes.
            named: as for :meth:`state`.

        Raises:
            FileNotFoundError, OSError, ValueError: as ``synapses.load`` and ``save``.
            TypeError, SynapseError: as :meth:`state`.

        Example:
            >>> import tempfile, torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> synapses = si.SynapticIntelligence([("w", p)], torch.optim.Adam([p]), c=1.0, xi=0.1)
            >>> folder = tempfile.mkdtemp()
            >>> synapses.save(folder + "/old.safetensors")
            >>> surgery = si.Surgery(renamed={"w": "layer.w"})
            >>> surgery.file(folder + "/old.safetensors", folder + "/new.safetensors", [("layer.w", p)])
        """
        given = canonical_parameters(named)
        group = processes_of(given.values())
        file = together(group, lambda: read_importance(Path(old_path)))
        parameters = {name: whole(p.detach()) for name, p in self._with_synapses(file, given.items()).items()}
        changed = self.applied(file, parameters)
        writes = group is None or dist.get_rank(group) == 0
        together(group, lambda: write_importance(changed, Path(new_path)) if writes else None)

    @torch.no_grad()
    def applied(
        self,
        file: ImportanceFile,
        parameters: Mapping[str, Tensor],
        old: Mapping[str, Tensor] | None = None,
        optimizer: Optimizer | None = None,
        *,
        edited: bool = False,
    ) -> ImportanceFile:
        """Return what the synapses of the changed model remember; what is given stays as it is.

        Args:
            file: what they remembered before. What is kept are its tensors themselves.
            parameters: those of the changed model that have synapses, by canonical name. Where they are sharded, every
                process must call this.
            old: those from before the surgery; None: they were at the anchor, if no step was taken since.
            optimizer: the one that goes on with the parameters, perhaps with what it has kept of the old ones.
            edited: the old ones were changed by other hands since the last step, or since they were at the anchor.

        Raises:
            SynapseError: as :meth:`state`, or the optimizer has moments of a shape that is no more.

        Example:
            >>> old, new = {"w": torch.ones(1)}, {"v": torch.ones(2)}
            >>> file = ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 1, 0, omega=old, anchor=old, path={})
            >>> Surgery(renamed={"w": "v"}, resized=["v"]).applied(file, new).omega
            {'v': tensor([1., 0.])}
        """
        _refuse_unready(file)
        carried = self._carried(file.anchor)
        shapes = {name: file.anchor[before].shape for name, before in carried.items()}
        _refuse(self._problems(file.anchor, carried, shapes, {name: p.shape for name, p in parameters.items()}))
        if optimizer is not None:
            _refuse_old_moments(optimizer, parameters, shapes)
        if not file.untouched:  # else the anchor follows whatever the weights become
            kept = {n: p for n, p in parameters.items() if n in carried and not _is_under(n, self.replaced)}
            anchors = {name: file.anchor[carried[name]] for name in kept}
            held = {
                name: _values_before(parameter, anchors[name], (old or {}).get(carried[name]))
                for name, parameter in kept.items()
            }
            # Where nothing holds the old values, the anchor does if they are known to have been there.
            at_anchor = not file.steps and (old is None or edited)
            unknown = {name for name, values in held.items() if values is None and not at_anchor}
            # Every process asks for all of them in the same order, as this gathers what is sharded.
            other = [n for n, p in kept.items() if _differ(p, anchors[n] if (was := held[n]) is None else was)]
            resized = [name for name in other if shapes[name] != kept[name].shape]
            _refuse(self._problems_of_values([name for name in resized if name not in unknown], kept, other))
            strangers = [name for name in other if name not in unknown and name not in resized]
            self._warn_of_values([name for name in resized if name in unknown], strangers)
        if optimizer is not None:
            self._warn_of_moments(optimizer, {name: p for name, p in parameters.items() if name in carried})
        omega, anchor = {}, {}
        for name, parameter in parameters.items():
            if name not in carried or _is_under(name, self.replaced):
                omega[name], anchor[name] = _zeros(parameter), _present(parameter, parameter.dtype)
                continue
            was, its_anchor = file.omega[carried[name]], file.anchor[carried[name]]
            follows = file.untouched or _is_under(name, self.moved)
            omega[name], anchor[name] = was, _present(parameter, its_anchor.dtype) if follows else its_anchor
            if was.shape != parameter.shape:
                free = torch.zeros(parameter.shape, dtype=was.dtype, device=parameter.device)
                omega[name] = _in_corner(was, free, parameter)
                if not follows:
                    anchor[name] = _in_corner(its_anchor, _present(parameter, its_anchor.dtype), parameter)
        _refuse_nonfinite(anchor)
        path = {name: torch.zeros_like(tensor) for name, tensor in anchor.items()} if file.path else {}
        return replace(file, omega=omega, anchor=anchor, path=path)

    def attached(
        self,
        live: Live,
        parameters: Mapping[str, Tensor],
        optimizer: Optimizer,
        importance: Importance,
        c: Strength,
    ) -> ImportanceFile:
        """Return what :meth:`applied` does, for live synapses that go on with their estimator.

        Args:
            live: their state.
            parameters: as for :meth:`applied`.
            optimizer: the one that goes on with the parameters.
            importance: the estimator that goes on with them.
            c: strength of the pull, without unit.

        Raises:
            SynapseError: as :meth:`applied`, or the estimator would look at another model.

        Example:
            >>> from synaptic_intelligence import PathIntegral
            >>> from synaptic_intelligence.state import State
            >>> live, new = State({"w": torch.ones(1)}, integrates_path=True), {"w": torch.ones(2)}
            >>> optimizer, surgery = torch.optim.SGD(new.values()), Surgery(resized=["w"])
            >>> surgery.attached(live, new, optimizer, PathIntegral(xi=0.1), 1.0).anchor
            {'w': tensor([1., 1.])}
        """
        refuse_another_model(importance, parameters)
        file = live.snapshot(importance, c)
        return self.applied(file, parameters, live.parameters, optimizer, edited=live.edited())

    # Names.

    def _declared(self) -> dict[str, Collection[str]]:
        """Return the fields that speak of new names."""
        return {"resized": self.resized, "added": self.added, "replaced": self.replaced, "moved": self.moved}

    def _with_synapses(self, file: ImportanceFile, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        carried = self._carried(file.anchor)
        return {name: p for name, p in canonical_parameters(named).items() if p.requires_grad or name in carried}

    def _carried(self, remembered: Iterable[str]) -> dict[str, str]:
        """Return the old names of what is not removed, by the new ones.

        Raises:
            SynapseError: two would have one name, or one none.
        """
        carried: dict[str, str] = {}
        for old in remembered:
            if _is_under(old, self.removed):
                continue
            new = self._new_name(old)
            if not new:
                raise SynapseError(f"renamed leaves nothing of the name {old!r}: give it one")
            if new in carried:
                raise SynapseError(
                    f"renamed gives {new!r} to both {carried[new]!r} and {old!r}: name what is gone in removed"
                )
            carried[new] = old
        return carried

    def _renaming(self, name: str) -> str | None:
        """Return the key of ``renamed`` by which a name changes."""
        return max((prefix for prefix in self.renamed if _is_under(name, [prefix])), key=len, default=None)

    def _new_name(self, name: str) -> str:
        prefix = self._renaming(name)
        if prefix is None:
            return name
        rest = name.removeprefix(prefix).removeprefix(".")
        return ".".join(part for part in (self.renamed[prefix], rest) if part)

    # What does not fit.

    def _problems(
        self, remembered: Collection[str], carried: Mapping[str, str], before: Shapes, now: Shapes
    ) -> Iterator[str]:
        """Say what changed without being named, and what was named without such a change."""
        declared = self._declared()
        names = [*before, *(name for name in now if name not in before)]
        for name in names:
            if len(kinds := [kind for kind, prefixes in declared.items() if _is_under(name, prefixes)]) > 1:
                yield f"{name!r} is in {' and in '.join(kinds)}: name it in one of them"
        for kind, prefixes in declared.items():
            for prefix in prefixes:
                matched = [name for name in names if _is_under(name, [prefix])]
                if not matched:
                    yield f"{kind} {prefix!r} is the name of nothing, old or new"
                elif problem := _problem_of(kind, matched, before, now):
                    yield f"{kind} {prefix!r}: {problem}"
        for prefix in self.removed:
            if not any(_is_under(name, [prefix]) for name in remembered):
                yield f"removed {prefix!r} is the name of nothing that the synapses know"
        used = {self._renaming(old) for old in carried.values()}
        if idle := [prefix for prefix in self.renamed if prefix not in used]:
            yield f"renamed {idle} are the names of nothing that the synapses know and that is not removed"
        removed = {self._new_name(name) for name in remembered if _is_under(name, self.removed)}
        if still := sorted(name for name in removed if name in now and name not in carried):
            yield f"removed: {still} are still there (name them in replaced, if they are new)"
        unnamed = [name for name in names if not any(_is_under(name, prefixes) for prefixes in declared.values())]
        if appeared := [name for name in unnamed if name not in before and name not in removed]:
            yield f"{appeared} appeared (name them in added, or say in renamed what they were called)"
        if gone := [carried[name] for name in unnamed if name not in now]:
            yield f"{gone} disappeared (name them in removed, or in renamed)"
        if reshaped := [name for name in unnamed if name in before and name in now and before[name] != now[name]]:
            changes = [f"{name!r} {list(before[name])} -> {list(now[name])}" for name in reshaped]
            yield f"{', '.join(changes)} changed shape (name them in resized, or to start free in replaced)"

    def _problems_of_values(self, resized: list[str], kept: Iterable[str], other: Collection[str]) -> Iterator[str]:
        """Say which values are not what they must be after such a surgery.

        Args:
            resized: those that do not hold their old values, though these are known.
            kept: all that were there before and are not replaced.
            other: those of them that have other values than before.
        """
        if resized:
            yield (
                f"resized: {resized} do not hold the old values where old and new overlap (copy these into the leading "
                "corner, or load the weights first; name them in replaced to start free)"
            )
        for prefix in self.moved:
            if not any(name in other for name in kept if _is_under(name, [prefix])):
                yield f"moved {prefix!r}: the values are those of before (move them first, or do not name it)"

    def _warn_of_values(self, resized: list[str], other: list[str]) -> None:
        """Warn of what was resized where its old values are not known, and of what has others, though not named."""
        if resized:
            warn(
                f"resized: {resized} are not at their anchor where old and new overlap, and what they held before the "
                "surgery is not known any more: see that these are their old values, or name them in replaced"
            )
        if strangers := [name for name in other if not _is_under(name, self.moved)]:
            warn(
                f"{strangers} have other values than before the surgery, and are pulled to where they were: load the "
                "weights first, or name in moved what the surgery itself has changed"
            )

    def _warn_of_moments(self, optimizer: Optimizer, known: Mapping[str, Tensor]) -> None:
        """Warn where an optimizer that goes on has moments of what starts anew."""
        if left := [n for n, p in known.items() if _is_under(n, self.replaced) and _moments(optimizer, p)]:
            warn(
                f"replaced: the optimizer still has the moments of the old {left}: make a new optimizer, or delete "
                "optimizer.state[parameter] of each"
            )


def _problem_of(kind: str, matched: list[str], before: Shapes, now: Shapes) -> str | None:
    """Say why such a change is not what happened to these names; None if it is."""
    known, new = ([name for name in matched if name in there] for there in (before, now))
    changed = [name for name in known if name in now and before[name] != now[name]]
    strangers, gone = ([name for name in matched if name not in there] for there in (before, now))
    if kind == "added":
        return f"{known} were there before (name what is new alone, or name them in replaced)" if known else None
    if kind == "replaced":
        if not known:
            return "was not there before (name it in added)"
        return None if new else "is not there any more (name it in removed)"
    if strangers:
        return f"{strangers} were not there before (name them in added)"
    if gone:
        return f"{gone} are not there any more (name them in removed)"
    if kind == "moved":
        return f"{changed} changed shape (name them in resized or in replaced)" if changed else None
    if other := [name for name in changed if len(before[name]) != len(now[name])]:
        return f"{other} have another number of dimensions (name them in replaced)"
    return None if changed else "has the shape that it had (do not name it)"


def _is_under(name: str, prefixes: Iterable[str]) -> bool:
    return any(not prefix or name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _checked_names(given: object, kind: str) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f'{kind} must be a list of names, such as ["head"]: not {given!r}')
    names = tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{kind} must hold names of parameters or of what they are part of: not {name!r}")
        if name and not all(name.split(".")):
            raise ValueError(f"{kind} has {name!r}: write it without a dot at either end, and with single ones within")
    return names


def _refuse_unready(file: ImportanceFile) -> None:
    if file.steps and file.path:
        raise SynapseError(
            f"{file.steps} optimizer steps were taken since the last consolidation, and surgery would lose their path: "
            "consolidate() first"
        )
    shapes = ({name: tensor.shape for name, tensor in named.items()} for named in (file.omega, file.anchor))
    if next(shapes) != next(shapes):
        raise SynapseError("the state has omega of other names or shapes than anchor: load what state_dict() gave")


def _refuse(problems: Iterable[str]) -> None:
    if found := "; ".join(problems):
        raise SynapseError(f"this surgery is not what was done to the model: {found}")


# Tensors.


def _refuse_nonfinite(anchor: Mapping[str, Tensor]) -> None:
    if bad := [name for name, tensor in anchor.items() if anywhere(~tensor.isfinite())]:
        raise SynapseError(f"parameter {bad} is not finite, and would be the anchor: give it weights first")


def _moments(optimizer: Optimizer, parameter: Tensor) -> list[Tensor]:
    """Return the tensors that an optimizer keeps of a parameter's past, but for counters."""
    kept = optimizer.state.get(parameter, {}).values()  # not by index, which would make an entry
    return [value for value in kept if isinstance(value, Tensor) and value.ndim]


def _refuse_old_moments(optimizer: Optimizer, parameters: Mapping[str, Tensor], before: Shapes) -> None:
    """Raise where the optimizer's next step would fail half-way."""
    # Moments may rightly have other shapes than the parameter, as Adafactor's, but not the one that it had.
    if old := [
        name
        for name, parameter in parameters.items()
        if before.get(name, parameter.shape) != parameter.shape
        and any(moment.shape == before[name] for moment in _moments(optimizer, parameter))
    ]:
        raise SynapseError(
            f"the optimizer has moments of {old} in the shape of before: make a new optimizer, or delete "
            "optimizer.state[parameter] of each"
        )


def _values_before(parameter: Tensor, anchor: Tensor, old: Tensor | None) -> Tensor | None:
    """Return the values before the surgery, of the old parameter; None if it does not hold them any more."""
    if old is None or old is parameter or old.shape != anchor.shape:
        return None  # it was changed in place
    freed = local(old).numel() > 0 and local(old).untyped_storage().nbytes() == 0
    return None if freed else old


def _corner(one: Tensor, other: Tensor) -> tuple[slice, ...]:
    """Return where two tensors of as many dimensions overlap."""
    return tuple(slice(min(pair)) for pair in zip(one.shape, other.shape, strict=True))


def _differ(parameter: Tensor, before: Tensor) -> bool:
    """Return whether values differ where both overlap, in the parameter's own precision."""
    was = before.to(parameter.device, parameter.dtype)
    if parameter.shape == before.shape:
        return anywhere(parameter != placed_like(was, parameter))
    corner = _corner(parameter, before)
    return bool((whole(parameter)[corner] != whole(was)[corner]).any())


def _in_corner(old: Tensor, around: Tensor, parameter: Tensor) -> Tensor:
    """Return ``around``, which may be written over, with the old values in it, sharded as the parameter is."""
    values, corner = whole(around), _corner(old, around)
    values[corner] = whole(old)[corner].to(values)
    return placed_like(values, parameter)


def _zeros(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32), requires_grad=False)


def _present(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of a parameter, float32 or wider, and as wide as ``dtype``."""
    wide = torch.promote_types(torch.promote_types(parameter.dtype, torch.float32), dtype)
    return parameter.detach().to(wide, copy=True)
