"""Adapters of PEFT: synapses hold what the adapter has learnt, in a plain loop and in the Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import same
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from stacks.example import first_task_accuracies, run_example
from stacks.plain import TASKS, MakeOptimizer, Outcome, assert_same, outcome_of, synapses_of
from stacks.trainers import AtEnd, Crash, Rows, adamw, fast_and_tidy, sgd, synaptic, trainer_of
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import synaptic_intelligence as si

pytestmark = [
    pytest.mark.stack("PEFT"),
    pytest.mark.usefixtures("fast_and_tidy"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT asks for it
]

__all__ = ["fast_and_tidy"]  # a fixture

EVERY_5: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5}
STEPS, SAMPLES, WORDS, LENGTH = 12, 16, 32, 8


def base() -> BertForSequenceClassification:
    """A small network with random weights, always the same ones."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.num_labels = 3
    return BertForSequenceClassification(config)


def adapted(network: nn.Module | None = None) -> PeftModel:
    """The network with an adapter for its attention; its last layer is trained as a whole (``modules_to_save``)."""
    network = base() if network is None else network
    torch.manual_seed(1)
    return get_peft_model(network, LoraConfig(r=2, target_modules=["query", "value"], task_type=TaskType.SEQ_CLS))


def rows(task: int) -> Rows:
    """Sentences of random words; their label is that of the word which this task asks for."""
    draw = torch.Generator().manual_seed(100 + task)
    sentences = torch.randint(WORDS, (STEPS * SAMPLES, LENGTH), generator=draw)
    return [{"input_ids": words, "labels": words[task] % 3} for words in sentences]


def steps(task: int) -> Iterator[dict[str, Tensor]]:
    samples = rows(task)
    for start in range(0, len(samples), SAMPLES):
        batch = samples[start : start + SAMPLES]
        yield {key: torch.stack([sample[key] for sample in batch]) for key in batch[0]}


def learn(task: int, model: nn.Module, optimizer: torch.optim.Optimizer, *, until: int = STEPS) -> None:
    """The plain loop, for one task or the beginning of one."""
    for _, batch in zip(range(until), steps(task), strict=False):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


def of_the_adapter(outcome: Outcome | None) -> Outcome:
    """What there is of the adapter; of the frozen network there are weights alone."""
    assert outcome is not None
    return replace(outcome, weights={name: outcome.weights[name] for name in outcome.anchor})


def train_plainly(make_optimizer: MakeOptimizer, tasks: int = TASKS, *, until: int = STEPS) -> Outcome:
    model = adapted()
    optimizer = make_optimizer(p for p in model.parameters() if p.requires_grad)
    synapses = synapses_of(model, optimizer)
    for task in range(tasks):
        learn(task, model, optimizer, until=until)
        if task + 1 < tasks:
            synapses.consolidate()
    return of_the_adapter(outcome_of(model, synapses))


# In the Trainer.


def test_lora_in_the_trainer_equals_the_plain_loop_bit_for_bit(tmp_path: Path) -> None:
    """Three tasks of an adapter, with the two lines for the Trainer and in a loop written out."""
    callback = synaptic()
    end = AtEnd(callback)
    trainer = trainer_of(tmp_path, adapted(), [], end, callback)
    for task in range(TASKS):
        trainer.train_dataset = rows(task)
        trainer.train()
    assert_same(of_the_adapter(end.outcome), train_plainly(adamw))


def test_resuming_in_the_middle_of_a_task_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    """A checkpoint of the adapter and one of its synapses go on as if nothing had happened."""
    callback = synaptic()
    trainer = trainer_of(tmp_path, adapted(), rows(0), callback)
    trainer.train()
    trainer = trainer_of(
        tmp_path,
        trainer.model,
        rows(1),
        Crash(after=7),
        callback,
        parts={"optimizers": (trainer.optimizer, None)},
        **EVERY_5,
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    callback = synaptic()
    end = AtEnd(callback)
    trainer_of(tmp_path, adapted(), rows(1), end, callback, **EVERY_5).train(resume_from_checkpoint=True)
    assert_same(of_the_adapter(end.outcome), train_plainly(adamw, tasks=2))


def test_going_back_to_the_best_step_equals_stopping_there_bit_for_bit(tmp_path: Path) -> None:
    """With load_best_model_at_end the adapter and its path are those of the best step."""
    scores, callback = iter([0.1, 0.9, 0.3, 0.2]), synaptic(boundary="manual")
    parts = {"eval_dataset": rows(0)[:16], "compute_metrics": lambda _: {"score": next(scores)}}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    model = adapted()
    every_3 = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    trainer_of(tmp_path, model, rows(0), callback, parts=parts, **best, **every_3).train()
    found, expected = outcome_of(model, callback.synapses), train_plainly(adamw, tasks=1, until=6)
    for kind in ("weights", "path", "anchor"):
        assert same(getattr(of_the_adapter(found), kind), getattr(expected, kind)), kind


def test_what_a_checkpoint_of_the_adapter_does_not_hold_is_noticed(tmp_path: Path) -> None:
    """PEFT saves none of the network itself: what was trained there is lost on resuming, which is refused."""

    def partly_thawed() -> PeftModel:
        model = adapted()
        model.get_parameter("base_model.model.bert.pooler.dense.bias").requires_grad_(True)
        return model

    trainer_of(tmp_path, partly_thawed(), rows(0), synaptic(), **EVERY_5).train()
    with pytest.raises(si.SynapseError, match=r"belong to others: \['base_model.model.bert.pooler.dense.bias'\]"):
        trainer_of(tmp_path, partly_thawed(), rows(0), synaptic()).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-5")
        )


# Which parameters.


def test_the_adapter_is_protected_and_the_frozen_network_left_out() -> None:
    """model.named_parameters() as it is gives synapses to the adapter and to modules_to_save, and to nothing else."""
    model = adapted()
    optimizer = adamw(p for p in model.parameters() if p.requires_grad)
    synapses = synapses_of(model, optimizer)
    attention, last = "base_model.model.bert.encoder.layer.0.attention.self", "base_model.model.classifier"
    lora = [f"{attention}.{layer}.lora_{part}.default.weight" for layer in ("query", "value") for part in "AB"]
    assert sorted(synapses.anchor) == [
        *lora,
        *(f"{last}.modules_to_save.default.{part}" for part in ("bias", "weight")),
    ]
    learn(0, model, optimizer)
    synapses.consolidate()
    assert all(bool(omega.any()) for omega in synapses.omega.values())
    weights = dict(model.named_parameters())
    for name, before in base().named_parameters():
        of_layer = name.replace("query.", "query.base_layer.").replace("value.", "value.base_layer.")
        renamed = of_layer.replace("classifier.", "classifier.original_module.")
        assert torch.equal(weights[f"base_model.model.{renamed}"], before), name


def test_frozen_parameters_in_the_optimizer_get_no_synapses_in_the_trainer(tmp_path: Path) -> None:
    """Also where an optimizer holds all of model.parameters(), as many scripts make it."""
    model, callback = adapted(), synaptic()
    trainer_of(tmp_path, model, rows(0), callback, parts={"optimizers": (adamw(model.parameters()), None)}).train()
    assert sorted(callback.synapses.omega) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_frozen_parameters_in_the_optimizer_change_nothing_in_a_loop_bit_for_bit() -> None:
    """What is trained has the same numbers where the optimizer was given all of model.parameters()."""
    found, expected = adapted(), adapted()
    outcomes = []
    for model, parameters in (
        (found, [*found.parameters()]),
        (expected, [p for p in expected.parameters() if p.requires_grad]),
    ):
        optimizer = adamw(parameters)
        synapses = synapses_of(model, optimizer)
        for task in range(2):
            learn(task, model, optimizer)
            synapses.consolidate()
        outcomes.append(outcome_of(model, synapses))
    for name, omega in outcomes[1].omega.items():
        assert bool(omega.any())
        assert torch.equal(outcomes[0].omega[name], omega)
        assert torch.equal(outcomes[0].weights[name], outcomes[1].weights[name])


def test_synapses_load_into_a_model_that_was_loaded_anew_bit_for_bit(tmp_path: Path) -> None:
    """The names are the same after save_pretrained and from_pretrained, so that a task can begin in another process."""
    model = adapted()
    optimizer = adamw(p for p in model.parameters() if p.requires_grad)
    synapses = synapses_of(model, optimizer)
    for task in range(TASKS):
        learn(task, model, optimizer)
        if task + 1 < TASKS:
            synapses.consolidate()
            model.save_pretrained(str(tmp_path))
            synapses.save(tmp_path / "synapses.safetensors")
            moments = optimizer.state_dict()
            model = PeftModel.from_pretrained(base(), tmp_path, is_trainable=True)
            optimizer = adamw(p for p in model.parameters() if p.requires_grad)
            optimizer.load_state_dict(moments)
            synapses = synapses_of(model, optimizer)
            synapses.load(tmp_path / "synapses.safetensors")
    assert_same(of_the_adapter(outcome_of(model, synapses)), train_plainly(adamw))


# What is refused.


def learnt(folder: Path) -> tuple[PeftModel, si.Consolidator]:
    """An adapter that has learnt a task, and its synapses, both saved."""
    model = adapted()
    optimizer = sgd(p for p in model.parameters() if p.requires_grad)
    synapses = synapses_of(model, optimizer)
    learn(0, model, optimizer)
    synapses.consolidate()
    model.save_pretrained(str(folder))
    synapses.save(folder / "synapses.safetensors")
    return model, synapses


def test_an_adapter_of_another_name_is_refused(tmp_path: Path) -> None:
    """The adapter's name is part of its parameters': two adapters are two sets of weights."""
    learnt(tmp_path)
    model = PeftModel.from_pretrained(base(), tmp_path, is_trainable=True, adapter_name="mine")
    synapses = synapses_of(model, sgd(p for p in model.parameters() if p.requires_grad))
    with pytest.raises(si.SynapseError, match=r"other names or shapes.*lora_A\.default.*lora_A\.mine"):
        synapses.load(tmp_path / "synapses.safetensors")


def test_another_adapter_of_the_same_model_is_refused(tmp_path: Path) -> None:
    """The synapses of one adapter do not move to a second one."""
    model, synapses = learnt(tmp_path)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["query", "value"], task_type=TaskType.SEQ_CLS))
    model.set_adapter("second")
    with pytest.raises(
        si.SynapseError, match=r"change which parameters have synapses.*lora_A\.default.*lora_A\.second"
    ):
        synapses.attach(sgd(p for p in model.parameters() if p.requires_grad), model.named_parameters())


def test_an_adapter_that_was_loaded_to_be_used_alone_is_refused(tmp_path: Path) -> None:
    """from_pretrained freezes it; is_trainable=True is wanted."""
    learnt(tmp_path)
    model = PeftModel.from_pretrained(base(), tmp_path)
    trainer = trainer_of(tmp_path, model, rows(0), synaptic(), parts={"optimizers": (sgd(model.parameters()), None)})
    with pytest.raises(ValueError, match="nothing to protect: all parameters are frozen"):
        trainer.train()


def test_merged_adapters_are_refused(tmp_path: Path) -> None:
    """After merge_and_unload() the adapter's parameters are gone, and what they protected cannot go on."""
    model, synapses = learnt(tmp_path)
    merged = model.merge_and_unload()
    for p in merged.parameters():
        p.requires_grad_(True)
    optimizer = sgd(merged.parameters())
    with pytest.raises(si.SynapseError, match=r"change which parameters have synapses.*lora_A"):
        synapses.attach(optimizer, merged.named_parameters())
    with pytest.raises(ValueError, match=r"lora_A.* is not in the optimizer"):
        synapses.attach(optimizer)
    synapses.detach()
    with pytest.raises(si.SynapseError, match=r"other names or shapes.*lora_A"):
        synapses_of(merged, optimizer).load(tmp_path / "synapses.safetensors")


@pytest.mark.parametrize("then", ["all is trained", "a new adapter"])
def test_merged_adapters_are_refused_in_the_trainer(tmp_path: Path, then: str) -> None:
    """Also where a new adapter of the same name takes the place of the merged one, which has other weights."""
    model, callback = adapted(), synaptic()
    trainer_of(tmp_path, model, rows(0), callback).train()
    merged = model.merge_and_unload()
    network = adapted(merged) if then == "a new adapter" else merged
    with pytest.raises(
        si.SynapseError, match=r"another model, without the weights that the last task ended with.*lora_A"
    ):
        trainer_of(tmp_path, network, rows(1), callback).train()


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/lora.py``."""
    with_synapses, without = first_task_accuracies(run_example("lora.py", tmp_path))
    assert with_synapses > without + 0.05
