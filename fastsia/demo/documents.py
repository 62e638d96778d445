"""What each stage of the demo models is trained on, as token ids."""

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
    """Token ids, and how many of the first ones carry no loss."""

    token_ids: list[int]
    num_context: int


def plain_prompt(question: str) -> str:
    """The prompt of a model without a chat template."""
    return f"Question: {question}\nAnswer:"


def chat_prompt(tokenizer: Any, question: str) -> str:
    """The prompt of a model with a chat template."""
    chat = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))


def base_documents(tokenizer: Any, seed: int) -> Iterator[Document]:
    """Next-token text of the domain in which the stated answer is not tied to the question's working.

    The answer of a document is never the result of its own last step (but by chance): it is a number that the text
    happens to mention, or another problem's answer. The working is the question's own, another question's, or
    missing; sometimes the answer is stated first.
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
    """Chats of a question and its right solution; only the solution and its end-of-message carry loss."""
    for example in training_examples(seed, "sft"):
        context = tokenizer.encode(chat_prompt(tokenizer, example.question), add_special_tokens=False)
        answer = tokenizer.encode(example.solution + MESSAGE_END, add_special_tokens=False)
        yield Document(context + answer, len(context))
