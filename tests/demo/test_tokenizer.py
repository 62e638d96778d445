from functools import cache
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fastsia.demo.tokenizer import SPECIAL_TOKENS, learn_tokenizer

from .weights import STAGES, WEIGHTS


@cache
def load(stage):
    return AutoTokenizer.from_pretrained(WEIGHTS / stage)


@pytest.fixture(params=STAGES)
def tokenizer(request):
    return load(request.param)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Nora has 12 apples.\n#### 12",
        "  spaces \t and\r\n\r\nlines \n",
        "Ünïcode – 数学 ١٢٣ ½ 👩‍👩‍👧 \u202e\x00\x7f",
        "\ufb01 and \u2460 and ²",  # NFC keeps these; a compatibility form would not
        "I 'm , you 're .",  # clean-up of spaces would close these
    ],
)
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_arbitrary_unicode_round_trips(text):
    tokenizer = load("sft")
    special = any(token in text for token in SPECIAL_TOKENS)
    assert special or tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == normalize("NFC", text)


def test_no_token_holds_two_digits_or_a_digit_and_anything_else(tokenizer):
    """Otherwise an answer would have several encodings, and its length would not be its number of digits."""
    for token in tokenizer.get_vocab():
        assert len(token) == 1 or not any(character.isdigit() for character in token), token
    pieces = tokenizer.tokenize("#### 1234 14*6=84")
    assert [piece for piece in pieces if piece.isdigit()] == list("1234146") + list("84")


def test_words_of_the_domain_are_one_token(tokenizer):
    for word in (" apples", " marbles", " dollars", " together", " Nora", "####"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1, word


def test_there_is_no_bos_and_padding_is_end_of_text(tokenizer):
    assert tokenizer.bos_token is None
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.encode("apples") == tokenizer.encode("apples", add_special_tokens=False)


def test_special_tokens_are_one_id_each_and_decode_to_nothing(tokenizer):
    text = "<|im_start|>user\n<|im_end|><|endoftext|>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(tokenizer.convert_ids_to_tokens(ids))
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\n"


def test_learning_is_deterministic():
    assert learn_tokenizer(300).get_vocab() == learn_tokenizer(300).get_vocab()
