"""Solves problems with a demo model and transformers' `generate`, and measures the accuracy.

`python -m fastsia.demo.solve --model DIR` evaluates a folder on the demo task. `fastsia run` does not use this module.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastsia.answers.extraction import extract_answers
from fastsia.demo.documents import plain_prompt
from fastsia.tasks.demo import Example, evaluation_examples

BATCH_SIZE = 100


@dataclass(frozen=True)
class Solutions:
    """One generated solution for each problem.

    Attributes:
        texts: without end tokens.
        num_tokens: new tokens without the end token.
        ended: an end token was drawn.
        right: the answer of the text equals the gold.
    """

    texts: list[str]
    num_tokens: list[int]
    ended: list[bool]
    right: list[bool]

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    def describe(self) -> str:
        count = len(self.texts)
        mean, ended = sum(self.num_tokens) / count, sum(self.ended) / count
        return f"accuracy {self.accuracy:.3f} (n = {count}), mean length {mean:.1f} tokens, ended {ended:.3f}"


@torch.inference_mode()
def solve(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    temperature: float,
    top_p: float,
    max_new_tokens: int = 600,
) -> Solutions:
    """Draw one solution for each example (temperature 0 is greedy), as a chat if the tokenizer has a template."""
    model.eval()
    end_ids = model.generation_config.eos_token_id
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    texts: list[str] = []
    num_tokens: list[int] = []
    ended: list[bool] = []
    for start in range(0, len(examples), BATCH_SIZE):
        prompts = [_prompt(tokenizer, example.question) for example in examples[start : start + BATCH_SIZE]]
        encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        output = model.generate(
            input_ids=encoded.input_ids,
            attention_mask=encoded.attention_mask,
            do_sample=temperature > 0,
            max_new_tokens=max_new_tokens,
            **sampling,
        )
        for row in output[:, encoded.input_ids.shape[1] :].tolist():
            length = next((i for i, token in enumerate(row) if token in end_ids), len(row))
            num_tokens.append(length)
            ended.append(length < len(row))
            texts.append(tokenizer.decode(row[:length], skip_special_tokens=True))
    stated = extract_answers(texts, "number")
    right = [answer == example.gold for answer, example in zip(stated, examples, strict=True)]
    return Solutions(texts, num_tokens, ended, right)


def _prompt(tokenizer: Any, question: str) -> str:
    if tokenizer.chat_template is None:
        return plain_prompt(question)
    chat = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--limit", type=int, default=500, help="problems of the demo task (at most 2,000)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-new-tokens", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="print the first solutions")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    examples = evaluation_examples(options.limit)
    solutions = solve(model, tokenizer, examples, options.temperature, options.top_p, options.max_new_tokens)
    for example, text in zip(examples[: options.show], solutions.texts, strict=False):
        print(f"{example.question}\n--- {example.gold}\n{text}\n")
    print(solutions.describe())


if __name__ == "__main__":
    main()
