"""What is trained, on how much, and how: the numbers of the experiment in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

KINDS = ("full", "lora")
FIRST, SECOND = "bible", "fortunes"  # task A, task B; the base is trained on the third corpus
BASE = "wordnet"


@final
@dataclass(frozen=True)
class Protocol:
    """The settings of a run.

    Args:
        limits: sentences of each corpus, held-out ones included.
        epochs: of each corpus; joint training sees both tasks as often as they are seen one after the other.
        rates: the highest learning rate of AdamW, for the base, in full and with LoRA.
        c: the strength of the synapses, chosen by `run.py --search` on a seed of its own.
        xi: their damping, in squares of a parameter's movement.
        timed: steps with and without synapses that are timed in turns.
        held_out: the part of the corpora that is measured on.
    """

    limits: dict[str, int]
    epochs: dict[str, int]
    rates: dict[str, float]
    c: dict[str, float]
    xi: float = 1e-4
    layers: int = 4
    width: int = 192
    heads: int = 6
    context: int = 64
    vocabulary: int = 2048
    rank: int = 16
    batch: int = 16
    weight_decay: float = 0.01
    timed: int = 40
    held_out: str = "test"


PROTOCOL = Protocol(
    limits={BASE: 30_000, FIRST: 12_000, SECOND: 12_000},
    epochs={BASE: 1, FIRST: 2, SECOND: 1},
    rates={"base": 2e-3, "full": 1e-3, "lora": 3e-3},
    c={"full": 0.1, "lora": 1.0},
)

# To choose c by: the same on the validation sentences.
SEARCH = replace(PROTOCOL, held_out="validation", timed=0)
SEARCH_SEED = 100
SEARCHED = (0.01, 0.1, 1.0, 10.0)

# To see that all works, in seconds. Nothing can be learnt from its numbers.
QUICK = replace(
    PROTOCOL,
    limits={BASE: 1200, FIRST: 600, SECOND: 600},
    epochs={BASE: 1, FIRST: 2, SECOND: 2},
    rates={"base": 1e-2, "full": 1e-2, "lora": 3e-2},
    c={"full": 1.0, "lora": 1.0},
    layers=1,
    width=32,
    heads=2,
    context=32,
    vocabulary=512,
    rank=4,
    batch=8,
    timed=3,
)
