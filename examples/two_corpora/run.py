"""One corpus and then another, with and without synapses, in full and with LoRA: what was forgotten, and the price.

    python examples/two_corpora/run.py                 # five seeds, about an hour on one core
    python examples/two_corpora/run.py --quick         # seconds, to see that it works
    python examples/two_corpora/run.py --search        # how the strengths in protocol.py were chosen
    python scripts/two_corpora_table.py runs/two-corpora.json

A small GPT-2 learns English from WordNet (the base), then the King James Bible (task A), then fortunes (task B). What
was stopped goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, final

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import peft
import tokenizers
import torch
import transformers
from corpora import read_corpora
from learn import new_optimizer, new_synapses, step_seconds, train
from model import loss_on, new_gpt2, packed, tokens_per_byte, train_tokenizer, with_lora
from protocol import BASE, FIRST, KINDS, PROTOCOL, QUICK, SEARCH, SEARCH_SEED, SEARCHED, SECOND, Protocol
from torch import Tensor

from synaptic_intelligence.document import read_document, write_document
from synaptic_intelligence.experiments.environment import describe_environment

Row = dict[str, Any]


@final
class Experiment:
    """All stages of all seeds; each adds its row to the file as soon as it is done."""

    def __init__(self, protocol: Protocol, folder: Path | None, out: Path, form: str) -> None:
        self.protocol, self.out = protocol, out
        corpora = read_corpora(folder, protocol.limits)
        self.tokenizer = train_tokenizer([*corpora[BASE].train, *corpora[FIRST].train], protocol.vocabulary)
        self.rows: dict[str, Tensor] = {}
        self.held_out: dict[str, Tensor] = {}
        described = {}
        for name, corpus in corpora.items():
            self.rows[name] = packed(self.tokenizer, corpus.train, protocol.context)
            self.held_out[name] = packed(self.tokenizer, getattr(corpus, protocol.held_out), protocol.context)
            tokens = {"train": self.rows[name].numel(), "held_out": self.held_out[name].numel()}
            rate = tokens_per_byte(self.tokenizer, corpus)
            described[name] = {**corpus.described(), "tokens": tokens, "tokens_per_byte": rate}
        versions = {module.__name__: module.__version__ for module in (transformers, peft, tokenizers)}
        self.found: dict[str, Any] = {
            "experiment": "two-corpora",
            "form": form,
            "protocol": asdict(protocol),
            "corpora": described,
            "command": " ".join(["python examples/two_corpora/run.py", *_told(sys.argv[1:])]),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "environment": {**describe_environment("cpu", torch.get_num_threads(), 1), **versions},
            "processor_seconds": 0.0,
            "rows": [],
        }
        if out.exists():
            self._go_on_from(read_document(out).value)
        self.spent_before: float = self.found["processor_seconds"]
        self.states = out.with_suffix(".states")
        self.states.mkdir(parents=True, exist_ok=True)

    def _go_on_from(self, before: Any) -> None:
        for name in ("form", "protocol", "corpora"):
            if before[name] != self.found[name]:
                raise SystemExit(f"{self.out} is a run with another {name}: give another --out, or move it away")
        self.found = before

    def seed(self, seed: int, strengths: dict[str, tuple[float, ...]], *, joint: bool) -> None:
        """Do everything that this seed has left to do."""
        left = self.states / f"seed-{seed}-done"
        if left.exists():
            return
        for kind in KINDS:
            for c in strengths[kind]:
                self.row(partial(self.second, seed, kind, c), seed=seed, stage="second", kind=kind, c=c)
            if self.protocol.timed:
                self.row(partial(self.cost, seed, kind), seed=seed, stage="cost", kind=kind)
            if joint:
                self.row(partial(self.joint, seed, kind), seed=seed, stage="joint", kind=kind)
        for state in self.states.glob(f"seed-{seed}-*"):
            state.unlink()
        left.touch()

    def row(self, make: Callable[[], Row], **key: Any) -> None:
        """Add the row that ``make`` returns, unless a row with this key is there."""
        if any(key.items() <= row.items() for row in self.found["rows"]):
            return
        made = {**key, **make()}
        self.found["rows"].append(made)
        self.found["processor_seconds"] = self.spent_before + time.process_time()
        write_document(self.found, self.out)
        print(made, flush=True)

    # The stages. A state is what the next stage goes on from.

    def base(self, seed: int) -> dict[str, Any]:
        """The model that has learnt English, without synapses."""

        def learn() -> dict[str, Any]:
            model = new_gpt2(self.protocol, seed)
            optimizer = new_optimizer(model, self.protocol)
            trained = self.train(seed, model, optimizer, [BASE], "base")
            self.row(lambda: {**trained, **self.losses(model)}, seed=seed, stage="base")
            return {"model": model.state_dict()}

        return self.state(f"seed-{seed}-base", learn)

    def first(self, seed: int, kind: str) -> dict[str, Any]:
        """Task A, with synapses. They do not pull yet, so that it is the same for every strength."""

        def learn() -> dict[str, Any]:
            model, optimizer = self.learner(seed, kind)
            start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
            synapses = new_synapses(model, optimizer, self.protocol, self.protocol.c[kind])
            trained = self.train(seed, model, optimizer, [FIRST], kind, synapses)
            moved = torch.cat([(synapses.anchor[name] - p).flatten() for name, p in start.items()])
            omega = torch.cat([tensor.flatten() for tensor in synapses.omega.values()])
            told = {"squared_movement": float(moved.square().mean()), "mean_omega": float(omega.mean())}
            self.row(lambda: {**trained, **self.losses(model), **told}, seed=seed, stage="first", kind=kind)
            return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "synapses": synapses.state_dict()}

        return self.state(f"seed-{seed}-{kind}", learn)

    def second(self, seed: int, kind: str, c: float) -> Row:
        """Task B: without synapses where c = 0, with them where it is not."""
        model, optimizer = self.after_first(seed, kind, c)
        return {**self.train(seed, model, optimizer, [SECOND], kind), **self.losses(model)}

    def joint(self, seed: int, kind: str) -> Row:
        """Both tasks at once, which needs the old data."""
        model, optimizer = self.learner(seed, kind)
        return {**self.train(seed, model, optimizer, [FIRST, SECOND], kind), **self.losses(model)}

    def cost(self, seed: int, kind: str) -> Row:
        """Time of steps of task B, with and without synapses in turns, and what these take in memory."""
        model, optimizer = self.learner(seed, kind, self.first(seed, kind))
        synapses = self.synapses(model, optimizer, kind, self.protocol.c[kind], self.first(seed, kind))
        learners = {"without": self.after_first(seed, kind, 0.0), "with": (model, optimizer)}
        batches = self.rows[SECOND].split(self.protocol.batch)[: self.protocol.timed + 1]
        seconds = step_seconds(learners, batches)
        memory, parameters = synapses.memory(), list(model.parameters())
        return {
            "step_seconds": seconds,
            "synapses_bytes": memory.total,
            "protected_parameters": memory.parameters,
            "model_bytes": sum(p.numel() * p.element_size() for p in parameters),
            "trained_bytes": sum(p.numel() * p.element_size() for p in parameters if p.requires_grad),
        }

    # What they share.

    def state(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.states / f"{name}.pt"
        if not file.exists():
            torch.save(make(), file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
        loaded: dict[str, Any] = torch.load(file, weights_only=True)
        return loaded

    def learner(self, seed: int, kind: str, state: dict[str, Any] | None = None) -> tuple[Any, torch.optim.Optimizer]:
        """The base and a fresh optimizer; or both as the first task has left them."""
        model = new_gpt2(self.protocol, seed)
        model.load_state_dict(self.base(seed)["model"])
        if kind == "lora":
            model = with_lora(model, self.protocol, seed)
        optimizer = new_optimizer(model, self.protocol)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        return model, optimizer

    def after_first(self, seed: int, kind: str, c: float) -> tuple[Any, torch.optim.Optimizer]:
        state = self.first(seed, kind)
        model, optimizer = self.learner(seed, kind, state)
        if c:
            self.synapses(model, optimizer, kind, c, state)
        return model, optimizer

    def synapses(self, model: Any, optimizer: torch.optim.Optimizer, kind: str, c: float, state: dict[str, Any]) -> Any:
        synapses = new_synapses(model, optimizer, self.protocol, self.protocol.c[kind])
        synapses.load_state_dict(state["synapses"])
        synapses.c = c
        return synapses

    def train(
        self,
        seed: int,
        model: Any,
        optimizer: torch.optim.Optimizer,
        names: list[str],
        rate: str,
        synapses: Any = None,
    ) -> Row:
        epochs = self.protocol.epochs[names[0]]
        rows = self.rows[names[0]]
        if len(names) > 1:  # at once, each as often as by itself
            rows, epochs = torch.cat([self.rows[name].repeat(self.protocol.epochs[name], 1) for name in names]), 1
        before = time.process_time()
        steps = train(
            model,
            optimizer,
            rows,
            rate=self.protocol.rates[rate],
            epochs=epochs,
            batch=self.protocol.batch,
            order=torch.Generator().manual_seed(seed),
            synapses=synapses,
        )
        return {"steps": steps, "training_seconds": time.process_time() - before}

    def losses(self, model: Any) -> Row:
        return {"loss": {name: loss_on(model, rows) for name, rows in self.held_out.items()}}


def _told(words: list[str]) -> list[str]:
    """The arguments without paths, which are nobody else's business."""
    return [word if not Path(word).is_absolute() else Path(word).name for word in words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the file to write (default: runs/two-corpora.json)")
    parser.add_argument("--corpora", type=Path, help="a folder with wordnet.txt, bible.txt, fortunes.txt")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--quick", action="store_true", help="a tiny form, to see that it works")
    form.add_argument("--search", action="store_true", help="several strengths, on a seed of its own")
    given = parser.parse_args()
    name = "two-corpora-search" if given.search else "two-corpora-quick" if given.quick else "two-corpora"
    out = given.out or Path("runs") / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    protocol = SEARCH if given.search else QUICK if given.quick else PROTOCOL
    kind_of_run = "search" if given.search else "quick" if given.quick else "full"
    try:
        experiment = Experiment(protocol, given.corpora, out, kind_of_run)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    if given.search:
        experiment.seed(SEARCH_SEED, dict.fromkeys(KINDS, (0.0, *SEARCHED)), joint=False)
    for seed in range(0 if given.search else 1 if given.quick else given.seeds):
        experiment.seed(seed, {kind: (0.0, protocol.c[kind]) for kind in KINDS}, joint=seed == 0)
    shutil.rmtree(experiment.states)


if __name__ == "__main__":
    main()
