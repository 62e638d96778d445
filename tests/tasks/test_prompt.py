"""Prompts: chat or plain, one BOS, thinking templates, few-shot without the test item."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fastsia.config import Problem
from fastsia.errors import FastsiaError
from fastsia.tasks import Exemplar, Task, build_prompt, load_task
from fastsia.tasks.exemplars import EXEMPLARS
from fastsia.tasks.prompt import INSTRUCTIONS, PLAIN_STOP
from tests.tasks.tokenizers import BOS, word_tokenizer

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/{{ m.role }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SUM = Problem("sum", "What is 2 + 3?", "5")
SKY = Problem("sky", "What colour is a clear sky?", "B", choices=("green", "blue"))
NUMBERS = Task("numbers", (SUM,))
CHOICES = Task("choices", (SKY,), "choice")


def test_plain_text() -> None:
    prompt = build_prompt(NUMBERS, SUM, word_tokenizer())
    assert prompt.text == f"{INSTRUCTIONS['number']}\n\nQuestion: What is 2 + 3?\nAnswer:"
    assert prompt.stop == PLAIN_STOP == ("\nQuestion:", "\nQ:")
    assert not prompt.starts_in_think


def test_a_task_without_instruction_asks_the_bare_question() -> None:
    """The demo models were trained on exactly these two forms."""
    task = replace(NUMBERS, instruction="")
    assert build_prompt(task, SUM, word_tokenizer()).text == "Question: What is 2 + 3?\nAnswer:"
    assert build_prompt(task, SUM, word_tokenizer(chat_template=CHAT)).text == "[user]What is 2 + 3?[/user][assistant]"


def test_the_demo_task_builds_what_its_models_read() -> None:
    task = load_task("demo", limit=1)
    problem = task.problems[0]
    assert build_prompt(task, problem, word_tokenizer()).text == f"Question: {problem.question}\nAnswer:"
    chat = build_prompt(task, problem, word_tokenizer(chat_template=CHAT))
    assert chat.text == f"[user]{problem.question}[/user][assistant]"


def test_options_are_lettered() -> None:
    text = build_prompt(CHOICES, SKY, word_tokenizer()).text
    assert text.endswith("Question: What colour is a clear sky?\nA. green\nB. blue\nAnswer:")


@pytest.mark.parametrize(
    ("answer_format", "marker"), [("number", '"####"'), ("choice", '"Answer:"'), ("boxed", "\\boxed{}")]
)
def test_instructions_name_the_marker(answer_format: Any, marker: str) -> None:
    assert marker in INSTRUCTIONS[answer_format]


def test_the_problems_own_format_counts() -> None:
    """A file may mix records with and without options."""
    mixed = replace(NUMBERS, problems=(SUM, replace(SKY, answer_format="choice")))
    assert build_prompt(mixed, mixed.problems[1], word_tokenizer()).text.startswith(INSTRUCTIONS["choice"])


def test_chat_is_used_where_there_is_a_template() -> None:
    tokenizer = word_tokenizer(chat_template=CHAT)
    prompt = build_prompt(NUMBERS, SUM, tokenizer)
    assert prompt.text == f"[user]What is 2 + 3?\n\n{INSTRUCTIONS['number']}[/user][assistant]"
    assert prompt.stop == ()
    assert build_prompt(NUMBERS, SUM, tokenizer, apply_chat_template=True) == prompt
    assert build_prompt(NUMBERS, SUM, tokenizer, apply_chat_template=False).text.endswith("\nAnswer:")


def test_a_template_asked_for_but_absent() -> None:
    with pytest.raises(FastsiaError, match="the tokenizer has no chat template"):
        build_prompt(NUMBERS, SUM, word_tokenizer(), apply_chat_template=True)


def test_no_tokenizer() -> None:
    with pytest.raises(FastsiaError, match="needs a tokenizer"):
        build_prompt(NUMBERS, SUM, None)


def test_a_template_that_raises_is_a_clear_error() -> None:
    template = "{{ raise_exception('Conversation roles must alternate') }}"
    with pytest.raises(FastsiaError, match="chat template failed: Conversation roles must alternate"):
        build_prompt(NUMBERS, SUM, word_tokenizer(chat_template=template))


@pytest.mark.parametrize("text_bos", ["", BOS + " "])
@pytest.mark.parametrize(
    ("bos", "puts_bos", "puts_eos"), [(None, False, False), (BOS, False, False), (BOS, True, False), (BOS, True, True)]
)
@pytest.mark.parametrize("chat", [False, True])
def test_exactly_one_bos(text_bos: str, bos: str | None, puts_bos: bool, puts_eos: bool, chat: bool) -> None:
    """Llama's template writes a BOS and its tokenizer adds another; an added EOS would end the prompt."""
    template = text_bos + CHAT.replace("[user]", " [user] ") if chat else None
    tokenizer = word_tokenizer(bos=bos, puts_bos=puts_bos, puts_eos=puts_eos, chat_template=template)
    ids = build_prompt(NUMBERS, SUM, tokenizer).token_ids
    expected = bos is not None and (puts_bos or (chat and text_bos != ""))
    assert ids.count(1) == expected or bos is None
    assert (ids[0] == 1) == expected or bos is None
    assert 2 not in ids


@pytest.mark.parametrize(
    ("opening", "starts"),
    [
        ("<think>\n", True),
        ("", False),
        ("<think>\n\n</think>\n\n", False),
        ("<think>a</think><think>", True),
    ],
)
def test_thinking_templates(opening: str, starts: bool) -> None:
    tokenizer = word_tokenizer(chat_template=CHAT.replace("[assistant]", "[assistant]" + opening))
    assert build_prompt(NUMBERS, SUM, tokenizer).starts_in_think is starts
    assert build_prompt(NUMBERS, SUM, tokenizer, num_fewshot=2).starts_in_think is starts
    assert not build_prompt(NUMBERS, SUM, tokenizer, apply_chat_template=False).starts_in_think


def test_a_think_tag_in_the_question_opens_nothing() -> None:
    problem = replace(SUM, question="What does <think> mean?")
    assert not build_prompt(NUMBERS, problem, word_tokenizer(chat_template=CHAT)).starts_in_think
    system = "[system]Write your thoughts after <think>.[/system]" + CHAT
    assert not build_prompt(NUMBERS, SUM, word_tokenizer(chat_template=system)).starts_in_think


def test_few_shot_plain() -> None:
    text = build_prompt(CHOICES, SKY, word_tokenizer(), num_fewshot=2).text
    first, second = EXEMPLARS["choice"][:2]
    assert text.index(first.question) < text.index(second.question) < text.index(SKY.question)
    assert text.count("Question: ") == 3
    assert f"\nAnswer: {first.reasoning}\nAnswer: {first.answer}\n\nQuestion: {second.question}" in text


def test_few_shot_chat_turns() -> None:
    text = build_prompt(NUMBERS, SUM, word_tokenizer(chat_template=CHAT), num_fewshot=2).text
    first = EXEMPLARS["number"][0]
    assert text.count("[user]") == 3
    assert f"[assistant]{first.reasoning}\n#### {first.answer}[/assistant][user]" in text


def test_the_test_item_is_never_an_exemplar() -> None:
    """The pool may contain it with other spaces or capitals; the next exemplar replaces it."""
    pool = EXEMPLARS["number"]
    problem = Problem("x", pool[1].question.upper().replace(" ", "  "), "1")
    text = build_prompt(NUMBERS, problem, word_tokenizer(), num_fewshot=2).text
    assert pool[0].question in text
    assert pool[1].question not in text
    assert pool[2].question in text


def test_more_exemplars_than_there_are() -> None:
    with pytest.raises(FastsiaError, match="num_fewshot must be at most 9 for the task numbers, got 10"):
        build_prompt(NUMBERS, SUM, word_tokenizer(), num_fewshot=10)


def test_own_exemplars() -> None:
    task = replace(NUMBERS, exemplars=(Exemplar("One and one?", "It is two.", "2"),))
    text = build_prompt(task, SUM, word_tokenizer(), num_fewshot=1).text
    assert "Question: One and one?\nAnswer: It is two.\n#### 2\n\nQuestion: What is" in text


def test_boxed_exemplars_are_boxed() -> None:
    task = replace(NUMBERS, answer_format="boxed")
    assert "\\boxed{46}" in build_prompt(task, SUM, word_tokenizer(), num_fewshot=1).text
