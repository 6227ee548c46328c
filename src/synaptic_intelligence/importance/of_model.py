"""Estimators that look at a model of their own, and whether it is still the one that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.importance.data import bare, reshard
from synaptic_intelligence.importance.estimator import Importance


@runtime_checkable
class OfModel(Protocol):
    """An estimator that was given a model, as Fisher, MAS and ShortPath are.

    Example:
        >>> from synaptic_intelligence import MAS, PathIntegral
        >>> isinstance(MAS(nn.Linear(2, 1)), OfModel), isinstance(PathIntegral(xi=0.1), OfModel)
        (True, False)
    """

    @property
    def model(self) -> nn.Module:
        """The network that it evaluates when a task ends."""


def refuse_another_model(estimator: Importance, parameters: Mapping[str, Tensor]) -> None:
    """Raise a SynapseError if an estimator has a model that these parameters, by name, are not all part of.

    Example:
        >>> from synaptic_intelligence import MAS
        >>> model = nn.Linear(2, 1)
        >>> refuse_another_model(MAS(model), dict(model.named_parameters()))
        >>> refuse_another_model(MAS(nn.Linear(2, 1)), dict(model.named_parameters()))
        Traceback (most recent call last):
        ...
        synaptic_intelligence.errors.SynapseError: ['weight', 'bias'] are not in the model that mas was given: ...
    """
    if not (isinstance(estimator, OfModel) and isinstance(estimator.model, nn.Module)):
        return
    model = bare(estimator.model)
    reshard(model)  # what FSDP2 has left whole after a forward pass has other parameters
    own = {id(parameter) for parameter in model.parameters()}
    if lost := [name for name, parameter in parameters.items() if id(parameter) not in own]:
        raise SynapseError(
            f"{lost} are not in the model that {estimator.name} was given: change that model object in place, or make "
            "new synapses with an estimator of the new model, and load surgery.state(...) into them"
        )
