"""Small tokenizers of transformers for the tests: words and single characters, no download."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<s>", "</s>"


def word_tokenizer(
    *, bos: str | None = None, puts_bos: bool = False, puts_eos: bool = False, chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """Splits at spaces; all unknown words are the same token.

    bos: its BOS. puts_bos, puts_eos: whether it adds them when it encodes, as Llama's and T5's tokenizers do.
    """
    vocabulary = {token: i for i, token in enumerate(["<unk>", BOS, EOS, "Question:", "Answer:", "a"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if puts_bos or puts_eos:
        single = " ".join(([BOS] if puts_bos else []) + ["$A"] + ([EOS] if puts_eos else []))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(BOS, vocabulary[BOS]), (EOS, vocabulary[EOS])]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=EOS, unk_token="<unk>")
    fast.chat_template = chat_template
    return fast
