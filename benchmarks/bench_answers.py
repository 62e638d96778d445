"""From token ids to answers: 100,000 rollouts of 300 tokens, the C++ core on one and two threads.

    python benchmarks/bench_answers.py [--rows 100000] [--tokens 300] [--repeats 7]

The texts are made up: rationales of a word problem. Three in five end in "#### n", one in five in "The answer is n.";
one is cut off before any marker, so that all rules have to be tried. Rates are bytes of decoded text a second.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

import numpy as np
from common import emit, percentiles
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fastsia.answers.extraction import extract_rollouts
from fastsia.answers.stream import AnswerStream
from fastsia.answers.vocabulary import Vocabulary

NAMES = ("Maya", "Omar", "Lena", "Theo", "Aisha", "Victor", "Ingrid", "Samuel", "Priya", "Jonas")
THINGS = ("apples", "marbles", "books", "tickets", "bottles", "stickers", "pencils", "chairs", "lamps", "letters")
SENTENCES = (
    "{name} starts with {a} {things} and buys {b} more, which makes {a} + {b} = {c} {things} altogether.\n",
    "Since each box holds {a} {things}, there are {b} boxes and so we have to multiply: {a} * {b} = {d}.\n",
    "After giving {b} of the {c} {things} to {other}, {name} has ${a}.50 and {a} {things} left over.\n",
    "That means that half of the remaining {things}, or about {a} of them, go to {other} on the second day.\n",
    "The price went up by {a}%, and therefore {name} needs another $1,{b}00 to pay for all of the {things}.\n",
)
REMARK = "However, we should check this step again before we go on with the other part of the question. "


def rationale(rng: random.Random, num_bytes: int) -> str:
    """Reasoning of at least that many bytes."""
    text = ""
    while len(text) < num_bytes:
        a, b = rng.randrange(2, 60), rng.randrange(2, 60)
        name, other = rng.sample(NAMES, 2)
        numbers = {"a": a, "b": b, "c": a + b, "d": a * b}
        text += rng.choice(SENTENCES).format(name=name, other=other, things=rng.choice(THINGS), **numbers)
        if rng.random() < 0.5:
            text += REMARK
    return text


def ending(rng: random.Random) -> str:
    """What a rollout ends in."""
    answer = rng.randrange(1000)
    return rng.choices((f"\n#### {answer}", f"\nThe answer is {answer}.", ""), (3, 1, 1))[0]


def make_tokenizer(rng: random.Random) -> Tokenizer:
    """A byte-level BPE of 8,192 tokens for such texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8192, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator((rationale(rng, 1000) + ending(rng) for _ in range(500)), trainer)
    return tokenizer


def make_rows(rng: random.Random, tokenizer: Tokenizer, num_rows: int, num_tokens: int) -> np.ndarray:
    """int32 [num_rows, num_tokens]: endings after as much reasoning as fits. A pool of 4,000 texts is drawn from."""
    pool = []
    for _ in range(min(num_rows, 4000)):
        end = tokenizer.encode(ending(rng)).ids
        begin = tokenizer.encode(rationale(rng, 8 * num_tokens)).ids
        pool.append(begin[: num_tokens - len(end)] + end)
    rows = np.array(pool, dtype=np.int32)
    return rows[np.array([rng.randrange(len(pool)) for _ in range(num_rows)])]


def seconds(work: Any, repeats: int) -> list[float]:
    """Wall time of each call, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    rng = random.Random(0)
    tokenizer = make_tokenizer(rng)
    rows = make_rows(rng, tokenizer, arguments.rows, arguments.tokens)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    if vocabulary.native is None:
        raise SystemExit("The C++ core is not built: there is nothing to measure.")
    ids = rows.reshape(-1)
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * arguments.tokens
    none = np.zeros(len(rows), dtype=np.int32)
    num_bytes = int(np.diff(vocabulary.offsets)[ids].sum())

    row: dict[str, Any] = {
        "benchmark": "answers",
        "rows": len(rows),
        "tokens": len(ids),
        "mb_of_text": round(num_bytes / 1e6, 1),
        "bytes_per_token": round(num_bytes / len(ids), 2),
    }
    medians = {}
    for threads in (1, 2):
        times = seconds(
            lambda threads=threads: extract_rollouts(
                vocabulary, ids[:0], none, ids, offsets, "number", answer_reading="both", num_threads=threads
            ),
            arguments.repeats,
        )
        rates = percentiles([num_bytes / 1e6 / t for t in times])
        medians[threads] = rates["p50"]
        row[f"mb_per_second_{threads}_thread" + "s" * (threads > 1)] = rates
    row["speedup_2_threads"] = round(medians[2] / medians[1], 3)

    stream = AnswerStream(vocabulary)
    spec = stream.open("number")
    slots = np.arange(min(512, len(rows)), dtype=np.int32)

    def feed_all() -> None:
        stream.start(slots, spec, ids[:0], none[: len(slots)])
        for step in range(arguments.tokens):
            stream.feed(slots, rows[: len(slots), step])

    row["stream_us_per_step_of_512"] = percentiles([t / arguments.tokens * 1e6 for t in seconds(feed_all, 3)])
    print(json.dumps({name: row[name] for name in row if name.startswith(("mb_per", "speedup", "stream"))}, indent=2))
    emit(row)


if __name__ == "__main__":
    main()
