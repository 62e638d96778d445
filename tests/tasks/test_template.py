"""Chat templates: their date, and the variables that they read."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest

from fastsia.errors import FastsiaError
from fastsia.tasks import template
from tests.tasks.tokenizers import word_tokenizer

# Dates as in the templates of Llama 3.2 and Granite; Llama 3.1's has a constant date unless one is given.
LLAMA_3_2 = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
   {% for m in messages %}
   [{{ m.role }}]{{ m.content }}
   {% endfor %}
"""
LLAMA_3_1 = """{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{{- "Today Date: " + date_string }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"""
GRANITE = """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}
{%- else %}{%- set system_message = "Today's Date: " + strftime_now('%B %d, %Y') + ".\\nYou are Granite." %}{%- endif %}
{{- system_message }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"""
MACRO = """{% macro day(form) %}<{{ strftime_now(form) }}>{% endmacro %}{{ day('100%% %-d.%-m.%y %A %d') | upper }}"""
CLOCK = "{{ strftime_now('%H:%M:%S') }}{% for m in messages %}{{ m.content }}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}{% if x is defined and x %}!{% endif %}"
USER = [{"role": "user", "content": "What?"}]
SYSTEM = [{"role": "system", "content": "Be."}, *USER]


# Beginnings of templates, where blanks and line ends may or may not matter.
BEGINNINGS = [
    *("\n\nx", "  x", "  {% if true %}x\n{% endif %}", "\n {%- if true %} x{% endif %}", "{#- a -#}\n x", "{{- 'x' }}"),
    *(
        "\t{{ messages[0].role }}\n",
        "{%+ if true %}x{% endif %}",
        "  {%+ if true +%}\nx{% endif %}",
        "{% raw %} {{ {% endraw %}",
    ),
]


@pytest.mark.parametrize(
    "source", [LLAMA_3_2, LLAMA_3_1, GRANITE, PLAIN, *(text + "{{ strftime_now('%Y') }}" for text in BEGINNINGS)]
)
@pytest.mark.parametrize("turns", [USER, SYSTEM])
def test_without_a_date_the_text_is_the_tokenizers_own(source: str, turns: Any) -> None:
    """Blanks and line ends of the template are kept, although a line precedes it."""
    tokenizer = word_tokenizer(chat_template=source)
    own = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert template.render(tokenizer, turns, {}) == own


@pytest.mark.parametrize(
    ("source", "written"),
    [
        (LLAMA_3_2, "Today Date: 06 Jul 2019\n\n"),
        (LLAMA_3_1, "Today Date: 06 Jul 2019["),
        (GRANITE, "Today's Date: July 06, 2019."),
        (MACRO, "<100% 6.7.19 SATURDAY 06>"),
        (CLOCK, "00:00:00What?"),
    ],
)
def test_a_template_gets_the_given_date(source: str, written: str) -> None:
    tokenizer = word_tokenizer(chat_template=source)
    assert written in template.render(tokenizer, USER, {}, "2019-07-06")


def test_every_directive_is_that_of_strftime() -> None:
    letters = "aAbBcdDeFgGhHIjmMnprRStTuUVwWxXyY"
    source = "{{ strftime_now('" + "|".join(f"%{letter}" for letter in letters) + "|%%d|%f|%-m') }}"
    found = template.render(word_tokenizer(chat_template=source), USER, {}, "2021-03-04")
    expected = datetime(2021, 3, 4).strftime("|".join(f"%{letter}" for letter in letters) + "|%%d|%f|%-m")
    assert found == expected


@pytest.mark.parametrize(
    ("source", "turns", "asks"),
    [
        (LLAMA_3_2, USER, True),
        (LLAMA_3_2, SYSTEM, True),
        (LLAMA_3_1, USER, False),
        (GRANITE, USER, True),
        (GRANITE, SYSTEM, False),
        (CLOCK, USER, False),
        (PLAIN, USER, False),
    ],
)
def test_whether_a_template_asks_for_the_date(source: str, turns: Any, asks: bool) -> None:
    """The text decides: a template that mentions the clock only in an unused branch does not ask for the date."""
    tokenizer = word_tokenizer(chat_template=source)
    assert template.asks_for_date(tokenizer, turns, {}) is asks
    assert template.reads_date(tokenizer, turns, {}) is (asks or source == LLAMA_3_1)


def test_a_date_string_of_ones_own_comes_first() -> None:
    tokenizer = word_tokenizer(chat_template=LLAMA_3_2)
    assert "Today Date: May Day\n" in template.render(tokenizer, USER, {"date_string": "May Day"}, "2019-07-06")
    assert not template.asks_for_date(tokenizer, USER, {"date_string": "May Day"})


def test_without_a_given_date_it_is_today(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs((date.fromisoformat(template.today()) - date.today()).days) <= 1  # the date may change at midnight
    monkeypatch.setattr(template, "today", lambda: "2019-07-06")
    assert "06 Jul 2019" in template.render(word_tokenizer(chat_template=LLAMA_3_2), USER, {})


def test_one_of_several_templates_is_the_default_one() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = {"default": GRANITE, "tool_use": PLAIN}
    assert "July 06, 2019" in template.render(tokenizer, USER, {}, "2019-07-06")


@pytest.mark.parametrize(
    ("variables", "name", "read"),
    [
        ({"x": True}, "x", True),
        ({"x": False}, "x", True),
        ({"x": "yes"}, "x", True),
        ({"y": True}, "y", False),
        ({"y": "low"}, "y", False),
        ({"x": 1, "y": None}, "y", False),
    ],
)
def test_which_variables_a_template_reads(variables: dict[str, Any], name: str, read: bool) -> None:
    """Also if the given value is the template's default."""
    assert template.reads(word_tokenizer(chat_template=PLAIN), USER, variables, name, None) is read


def test_a_variable_that_a_template_checks_is_one_that_it_reads() -> None:
    source = "{% if effort is defined and effort not in ['low', 'high'] %}{{ raise_exception('no') }}{% endif %}x"
    assert template.reads(word_tokenizer(chat_template=source), USER, {"effort": "low"}, "effort", None)


def test_a_template_that_fails_is_named() -> None:
    with pytest.raises(FastsiaError, match="chat template failed: no"):
        template.render(word_tokenizer(chat_template="{{ raise_exception('no') }}"), USER, {})
