"""From token ids to answers: 100,000 rollouts of 300 tokens, the C++ core on one and two threads.

    python -m benchmarks.bench_answers [--rollouts 100000] [--tokens 300] [--repeats 7]

The texts are word problems of the demo task. Three in five end in "#### n", one in five in "The answer is n."; one is
cut off before any marker, so that all rules have to be tried. Rates are bytes of decoded text per second.
"""

from __future__ import annotations

import random
from functools import partial
from itertools import chain

import numpy as np
from tokenizers import ByteLevelBPETokenizer

from benchmarks.harness import emit, parse, percentiles, seconds, show
from fastsia.answers.extraction import extract_rollouts
from fastsia.answers.stream import AnswerStream
from fastsia.answers.vocabulary import Vocabulary
from fastsia.tasks.demo import evaluation_examples


def make_rollouts(num_rollouts: int, num_tokens: int) -> tuple[Vocabulary, np.ndarray]:
    """A byte-level BPE of 8,192 tokens, and int32 [num_rollouts, num_tokens]: text with an ending."""
    rng = random.Random(0)
    texts = [f"{one.question}\n{one.solution.rpartition(chr(10))[0]}\n" for one in evaluation_examples(2000)]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=8192, show_progress=False)
    said = np.array([*chain(*(tokenizer.encode(text).ids for text in texts))], dtype=np.int32)
    found = np.empty((num_rollouts, num_tokens), dtype=np.int32)
    for row in found:
        number = rng.randrange(1000)
        (end,) = rng.choices((f"\n#### {number}", f"\nThe answer is {number}.", ""), (3, 1, 1))
        ids = tokenizer.encode(end).ids
        begin, length = rng.randrange(len(said) - num_tokens), num_tokens - len(ids)
        row[:length], row[length:] = said[begin : begin + length], ids
    return Vocabulary.from_tokenizer(tokenizer), found


def main() -> None:
    options = parse(__doc__, rollouts=100_000, tokens=300, repeats=7)
    vocabulary, rollouts = make_rollouts(options.rollouts, options.tokens)
    if vocabulary.native is None:
        raise SystemExit("The C++ core is not built: there is nothing to measure.")
    ids, none = rollouts.reshape(-1), np.zeros(len(rollouts), dtype=np.int32)
    offsets = np.arange(len(rollouts) + 1, dtype=np.int64) * options.tokens
    megabytes = float(np.diff(vocabulary.offsets)[ids].sum()) / 1e6
    read = partial(extract_rollouts, vocabulary, ids[:0], none, ids, offsets, "number")
    found = {}
    for name, threads in (("mb_per_second_1_thread", 1), ("mb_per_second_2_threads", 2)):
        times = seconds(partial(read, num_threads=threads), options.repeats)
        found[name] = percentiles([megabytes / each for each in times])

    stream = AnswerStream(vocabulary)
    spec = stream.open("number")
    slots = np.arange(min(512, len(rollouts)), dtype=np.int32)

    def feed_all() -> None:
        stream.start(slots, spec, ids[:0], none[: len(slots)])
        for step in range(options.tokens):
            stream.feed(slots, rollouts[: len(slots), step])

    found["stream_us_per_step_of_512"] = percentiles([each / options.tokens * 1e6 for each in seconds(feed_all, 3)])
    show([{"": name, **values} for name, values in found.items()])
    emit({"benchmark": "answers", **vars(options), "mb_of_text": round(megabytes, 1), **found})


if __name__ == "__main__":
    main()
