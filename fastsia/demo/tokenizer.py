"""The demo models' tokenizer: a byte-level BPE learned on the demo task's text."""

from __future__ import annotations

import json
from itertools import chain, islice, repeat

from tokenizers import pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from fastsia.tasks.demo import training_examples

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, MESSAGE_START, MESSAGE_END = SPECIAL_TOKENS
VOCABULARY_SIZE = 1500
NUM_EXAMPLES = 20_000
CONTEXT_LENGTH = 2048

# Common words that the demo task does not use, so that prompts of other tasks are not split into letters.
_OTHER_WORDS = """
the of and to in is you that it for on are as with they at be this from or by one had not but what all were when
your can said there use an which how their if will up about out many then them these so some would make like into
time look two more write go see no way could my than first been call who its now find long down day did get come
made may part over new take only little work know place year live back give most very after thing our just name good
sentence man think say great where help through much before line right too means old any same tell boy follow came
want show also around form three small set put end does another well large must big even such because turn here why
ask went men read need land different home us move try kind hand picture again change off play spell air away animal
house point page letter answer found study still learn should world high every near add food between own below
country plant last school father keep tree never start city earth eye light thought head under story saw left few
while along might close something seem next hard open example begin life always those both paper together group
often run important until children side feet car mile night walk white sea began grow took river four carry state
once book hear stop without second later miss idea enough eat face watch far really almost let above girl mountain
cut young talk soon list song being leave family body music color number total money cost price each week month hour
minute half twice percent pound ounce gallon cup dozen pair average speed distance weight remaining altogether
reason step result final option
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def learn_tokenizer(num_examples: int = NUM_EXAMPLES) -> Qwen2Tokenizer:
    """Learn the merges from `num_examples` examples of a separate stream and a list of common words.

    The class is the one that transformers selects for any Qwen2 folder: text is normalized (NFC), each digit is a
    piece, a word includes the space before it, and a line end the punctuation before it. Any text can be encoded. There
    is no BOS, and the padding token is the end of text. Each stage sets its chat template.
    """
    learner = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stories = (
        f"Question: {example.question}\nAnswer: {example.solution}\nuser\nassistant\n"
        for example in islice(training_examples(0, "tokenizer"), num_examples)
    )
    learner.train_from_iterator(chain(stories, repeat(" ".join(_OTHER_WORDS.split()), 20)), trainer)
    learned = json.loads(learner.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=None,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[MESSAGE_START, MESSAGE_END],
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
