"""A small GPT-2 with random weights, its tokenizer, a LoRA adapter for it, and its loss on held-out sentences."""

from __future__ import annotations

from typing import Any

import torch
from corpora import Corpus
from peft import LoraConfig, get_peft_model
from protocol import Protocol
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

END = "<end>"


def train_tokenizer(sentences: list[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE, so that no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def packed(tokenizer: Tokenizer, sentences: list[str], context: int) -> Tensor:
    """Return the sentences one after the other, each with its end, cut into rows ``[N, context]``."""
    end = tokenizer.token_to_id(END)
    tokens = [token for coded in tokenizer.encode_batch(sentences) for token in [*coded.ids, end]]
    return torch.tensor(tokens[: len(tokens) // context * context]).view(-1, context)


def tokens_per_byte(tokenizer: Tokenizer, corpus: Corpus) -> float:
    """Of the test sentences; the end of a sentence counts as one byte."""
    tokens = sum(len(coded.ids) + 1 for coded in tokenizer.encode_batch(corpus.test))
    return tokens / sum(len(sentence.encode()) + 1 for sentence in corpus.test)


def new_gpt2(protocol: Protocol, seed: int) -> Any:
    """Return a GPT-2 with random weights, the same for the same seed."""
    config = GPT2Config(
        vocab_size=protocol.vocabulary,
        n_positions=protocol.context,
        n_layer=protocol.layers,
        n_embd=protocol.width,
        n_head=protocol.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def with_lora(model: Any, protocol: Protocol, seed: int) -> Any:
    """Freeze the model, and put an adapter beside each of its matrices."""
    config = LoraConfig(
        r=protocol.rank,
        lora_alpha=2 * protocol.rank,
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,  # GPT-2 keeps its matrices transposed
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


@torch.no_grad()
def loss_on(model: Any, rows: Tensor) -> float:
    """Return the mean loss, in nats per token."""
    losses = [float(model(input_ids=some, labels=some).loss) * len(some) for some in rows.split(64)]
    return sum(losses) / len(rows)
