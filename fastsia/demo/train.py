"""Trains the demo models from scratch: `python -m fastsia.demo.train [--stage base|sft|rl] [--out DIR]`.

A stage is defined by its documents, its number of steps and the stage it starts from. The seed determines everything
else; other hardware, library versions or thread counts round differently and give slightly different weights.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from fastsia.demo.documents import Document, base_documents, chat_prompt, sft_documents
from fastsia.demo.reinforce import reinforce
from fastsia.demo.solve import solve
from fastsia.demo.tokenizer import CHAT_TEMPLATE, CONTEXT_LENGTH, END_OF_TEXT, MESSAGE_END, learn_tokenizer
from fastsia.tasks.demo import training_examples

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Shape:
    """Size of the network."""

    hidden_size: int = 128
    intermediate_size: int = 512
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2


@dataclass(frozen=True)
class Stage:
    """How one stage trains.

    Attributes:
        documents: made from (tokenizer, seed). None is reinforcement learning: batch_size problems per step, rewarded
            by their answers.
        start: the stage whose weights it starts from.
    """

    documents: Callable[[Any, int], Iterator[Document]] | None
    start: str | None
    chats: bool
    steps: int
    batch_size: int = 32


STAGES = {
    "base": Stage(base_documents, start=None, chats=False, steps=1400),
    "sft": Stage(sft_documents, start="base", chats=True, steps=400),
    "rl": Stage(None, start="sft", chats=True, steps=150, batch_size=64),
}


def new_model(vocabulary_size: int, eos_token_id: int, shape: Shape) -> Qwen2ForCausalLM:
    """Return a Qwen2 with random weights (float32, tied embeddings) from torch's current seed."""
    config = Qwen2Config(
        vocab_size=vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
    )
    return Qwen2ForCausalLM(config)


def batches(documents: Iterator[Document], batch_size: int, pad: int, seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield endless (input ids, labels), int64 [batch_size, longest], each of documents of similar length.

    The documents of 32 batches are sorted by length, split and shuffled. Padding is on the right, where a causal model
    cannot attend to it, so no mask is needed; labels of padding and context are -100.
    """
    order = random.Random(seed)
    while True:
        chunk = sorted(islice(documents, 32 * batch_size), key=lambda document: len(document.token_ids))
        groups = [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
        order.shuffle(groups)
        for group in groups:
            longest = len(group[-1].token_ids)
            inputs = torch.full((len(group), longest), pad)
            labels = torch.full((len(group), longest), -100)
            for row, document in enumerate(group):
                ids = torch.tensor(document.token_ids)
                inputs[row, : len(ids)] = ids
                labels[row, document.num_context : len(ids)] = ids[document.num_context :]
            yield inputs, labels


def optimizers(model: Any, scale: float = 1.0) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for embeddings, norms and biases; `scale` multiplies the rates."""
    embedding = model.get_input_embeddings().weight
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.ndim == 2 and p is not embedding]
    others = [p for p in parameters if p.ndim < 2 or p is embedding]
    return [
        torch.optim.Muon(matrices, lr=0.02 * scale, weight_decay=0.1),
        torch.optim.AdamW(others, lr=0.003 * scale, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(model: Any, batch_stream: Iterator[tuple[torch.Tensor, ...]], steps: int, scale: float = 1.0) -> None:
    """Train on next tokens: linear warm-up over a twentieth of the steps, then a cosine to a hundredth."""
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        progress = (step - warm_up) / max(1, steps - warm_up)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    steppers = optimizers(model, scale)
    schedules = [torch.optim.lr_scheduler.LambdaLR(stepper, factor) for stepper in steppers]
    model.train()
    began, losses = time.monotonic(), deque[float](maxlen=50)
    for step, (inputs, labels) in enumerate(islice(batch_stream, steps), start=1):
        targets = labels[:, 1:]
        hidden = model.model(input_ids=inputs[:, :-1], use_cache=False).last_hidden_state
        counted = targets != -100  # compute logits only where there is loss
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), targets[counted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper, schedule in zip(steppers, schedules, strict=True):
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            schedule.step()
        losses.append(loss.item())
        if step % 50 == 0 or step == steps:
            mean = sum(losses) / len(losses)
            print(f"step {step}/{steps}  loss {mean:.4f}  {time.monotonic() - began:.0f} s", flush=True)


def train_on_rewards(model: Any, tokenizer: Any, steps: int, batch_size: int, seed: int) -> None:
    """Train by reinforcement learning on the answers of generated problems."""
    problems = (
        (tuple(tokenizer.encode(chat_prompt(tokenizer, example.question), add_special_tokens=False)), example.gold)
        for example in training_examples(seed, "rl")
    )
    began, rewards = time.monotonic(), deque[float](maxlen=10)
    for step, reward in enumerate(reinforce(model, tokenizer, problems, steps, prompts=batch_size, seed=seed), start=1):
        rewards.append(reward)
        if step % 10 == 0 or step == steps:
            mean = sum(rewards) / len(rewards)
            print(f"step {step}/{steps}  reward {mean:.3f}  {time.monotonic() - began:.0f} s", flush=True)


def run_stage(
    name: str, out: Path, *, seed: int = 0, steps: int | None = None, held_out: int = 200,
    shape: Shape | None = None, batch_size: int | None = None, max_new_tokens: int = 600,
) -> None:  # fmt: skip
    """Train one stage and save model, tokenizer and generation settings as the Hugging Face folder `out`/`name`.

    It starts from the weights in `out`/`start`; the first stage learns the tokenizer and starts from random weights. At
    the end it prints the accuracy on `held_out` problems that are neither in a training text nor in the demo task.
    """
    stage = STAGES[name]
    torch.manual_seed(seed)
    if stage.start is None:
        tokenizer = learn_tokenizer()
        end_of_text, message_end = tokenizer.convert_tokens_to_ids([END_OF_TEXT, MESSAGE_END])
        model = new_model(len(tokenizer), end_of_text, shape or Shape())
    else:
        tokenizer = AutoTokenizer.from_pretrained(out / stage.start)
        end_of_text, message_end = tokenizer.convert_tokens_to_ids([END_OF_TEXT, MESSAGE_END])
        model = AutoModelForCausalLM.from_pretrained(out / stage.start, dtype=torch.float32)
    tokenizer.chat_template = CHAT_TEMPLATE if stage.chats else None
    print(f"{name}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens", flush=True)
    steps, batch_size = steps or stage.steps, batch_size or stage.batch_size
    if stage.documents is not None:
        train(model, batches(stage.documents(tokenizer, seed), batch_size, end_of_text, seed), steps)
    else:
        train_on_rewards(model, tokenizer, steps, batch_size, seed)

    model.config.eos_token_id = [message_end, end_of_text] if stage.chats else end_of_text
    model.generation_config.eos_token_id = [message_end, end_of_text] if stage.chats else [end_of_text]
    model.generation_config.pad_token_id = end_of_text
    model.eval().save_pretrained(out / name)
    tokenizer.save_pretrained(out / name)
    examples = list(islice(training_examples(seed, "held out"), held_out))
    for temperature, top_p in ((0.0, 1.0), (0.7, 0.95)) if examples else ():
        solutions = solve(model, tokenizer, examples, temperature, top_p, max_new_tokens)
        print(f"temperature {temperature}, top-p {top_p}: {solutions.describe()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=tuple(STAGES), help="default: all of them, in order")
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, help="gets one folder a stage (default: the package's own)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: the stage's own")
    parser.add_argument("--held-out", type=int, default=200, help="problems to report accuracy on at the end")
    options = parser.parse_args()
    for name in [options.stage] if options.stage else STAGES:
        run_stage(name, options.out, seed=options.seed, steps=options.steps, held_out=options.held_out)


if __name__ == "__main__":
    main()
