"""The training documents of each stage of the demo models, as token ids."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastsia.demo.tokenizer import END_OF_TEXT, MESSAGE_END
from fastsia.tasks.demo import Example, training_examples


@dataclass(frozen=True)
class Document:
    """Token ids, and the number of leading ones without loss."""

    token_ids: list[int]
    num_context: int


def plain_prompt(question: str) -> str:
    """Return the prompt of a model without a chat template."""
    return f"Question: {question}\nAnswer:"


def chat_prompt(tokenizer: Any, question: str) -> str:
    """Return the prompt of a model with a chat template."""
    chat = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))


def base_documents(tokenizer: Any, seed: int) -> Iterator[Document]:
    """Yield texts of the domain in which the stated answer does not follow from the working.

    The answer of a document is a number from the text or another problem's answer, so it equals the result of the last
    step only by chance. The working belongs to the question or to another one, or is missing; sometimes the answer
    comes first.
    """
    draw = random.Random(f"base documents/{seed}")
    examples = training_examples(seed, "base")
    other = next(examples)
    for example in examples:
        text = _untied_text(example, other, draw)
        token_ids = tokenizer.encode(text + END_OF_TEXT, add_special_tokens=False)
        yield Document(token_ids, 0)
        other = example


def _untied_text(example: Example, other: Example, draw: random.Random) -> str:
    working = example.solution.rsplit("\n", 1)[0]
    kind = draw.random()
    if kind < 0.10:
        working = other.solution.rsplit("\n", 1)[0]
    if kind > 0.75 or not working:
        answer = other.gold
    else:
        answer = draw.choice(re.findall(r"\d+", f"{example.question} {working}"))
    prompt = plain_prompt(example.question)
    if kind > 0.95:
        return f"{prompt} #### {answer}"
    if kind > 0.90:
        return f"{prompt} #### {answer}\n{working}"
    return f"{prompt} {working}\n#### {answer}"


def sft_documents(tokenizer: Any, seed: int) -> Iterator[Document]:
    """Yield chats of a question and its right solution. Only the solution and its end-of-message token have loss."""
    for example in training_examples(seed, "sft"):
        context = tokenizer.encode(chat_prompt(tokenizer, example.question), add_special_tokens=False)
        answer = tokenizer.encode(example.solution + MESSAGE_END, add_special_tokens=False)
        yield Document(context + answer, len(context))
