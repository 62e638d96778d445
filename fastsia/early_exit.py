"""Early exit, live: a text is written until rollouts from it agree on the answer, and that is its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fastsia.answers.distribution import answer_entropy
from fastsia.answers.extraction import extract_answers
from fastsia.config import SamplingParams
from fastsia.engine.engine import Engine
from fastsia.engine.sequence import Request, Trajectory
from fastsia.errors import FastsiaError

Reader = Callable[[Sequence[str], Sequence[bool]], Sequence[str | None]]
"""Reads the answers of texts, given which of them a token limit cut."""


@dataclass(frozen=True)
class ExitRule:
    """When to stop writing.

    Attributes:
        threshold: Nats; a text stops where the entropy of the rollouts' answers is at most this and more than half of
            them give one answer. The table `early_stop_held_out` of a stored run with as many rollouts and the same
            stride says which threshold loses little.
        num_rollouts: Rollouts at each check.
        stride: Tokens between checks; none is made before the first of them.
        probe: Text that is appended to the prefix before its rollouts, such as "\\nThe answer is": they then need few
            tokens. None: rollouts go on reasoning to their end, as in an evaluation.
        max_probe_tokens: Tokens of a rollout after a probe.
    """

    threshold: float
    num_rollouts: int = 8
    stride: int = 20
    probe: str | None = None
    max_probe_tokens: int = 16

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise FastsiaError(f"threshold must be at least 0 nats, got {self.threshold!r}.")
        for name in ("num_rollouts", "stride", "max_probe_tokens"):
            if getattr(self, name) < 1:
                raise FastsiaError(f"{name} must be at least 1, got {getattr(self, name)!r}.")


@dataclass
class EarlyExit:
    """The outcome for one prompt.

    Attributes:
        token_ids: The text, up to where it stopped.
        answer: The rollouts' most frequent answer where they agreed, else the text's own.
        exited: Whether the rollouts ended it.
        entropy: H at each check, nats, by the number of tokens written.
        rollout_tokens: Tokens that the rollouts drew. They are the price, and usually more than what is saved.
    """

    token_ids: list[int] = field(default_factory=list)
    answer: str | None = None
    exited: bool = False
    entropy: dict[int, float] = field(default_factory=dict)
    rollout_tokens: int = 0


def read_numbers(texts: Sequence[str], cut: Sequence[bool]) -> Sequence[str | None]:
    """The default reader: answers that are numbers."""
    return extract_answers(texts, "number", cut=list(cut))


def generate_with_early_exit(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    rule: ExitRule,
    sampling: SamplingParams | None = None,
    *,
    read: Reader = read_numbers,
    seed: int = 0,
) -> list[EarlyExit]:
    """Write a text for each prompt, and stop each where rollouts from it agree on the answer.

    All prompts are written side by side, `rule.stride` tokens a round. The tokens of a text and the rollouts that
    decide about it are drawn independently: if a rollout went on as the text, texts would consist of those rollouts
    that had disagreed. So a text that is not stopped is a draw of the model as any other.

    The engine keeps no KV between rounds: each round computes the prefix again.

    Args:
        engine: With a tokenizer.
        prompts: Token ids of each prompt.
        rule: When to stop.
        sampling: As for `Engine.rollout`; max_tokens limits a text, and a rollout without a probe.
        read: Reads answers. Of rollouts after a probe it gets the probe and what follows.
        seed: At least 0. Every draw follows from it and from the prompt's place.

    Returns:
        One for each prompt, in their order.

    Raises:
        FastsiaError: The engine has no tokenizer, or a text and its rollouts do not fit into the model's context.
    """
    tokenizer = engine.tokenizer
    if tokenizer is None:
        raise FastsiaError("early exit reads answers from texts and needs an engine with a tokenizer.")
    sampling = sampling or SamplingParams()
    found = [EarlyExit() for _ in prompts]
    probe = [] if rule.probe is None else tokenizer.encode(rule.probe, add_special_tokens=False)

    def texts(sequences: Sequence[Sequence[int]]) -> list[str]:
        return tokenizer.batch_decode([list(ids) for ids in sequences], skip_special_tokens=True)

    def request(key: tuple[int, bool], ids: Sequence[int], tokens: int, number: int) -> Request:
        place, decides = key
        entropy = [seed, place, len(found[place].token_ids), int(decides)]
        own = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
        limit = replace(sampling, max_tokens=tokens)
        return Request(key, (*prompts[place], *ids), limit, number, own, trajectory_ids=(), checkpoints=(0,))

    def requests(active: Sequence[int]) -> list[Request]:
        made = []
        for place in active:
            ids = found[place].token_ids
            left = sampling.max_tokens - len(ids)
            made.append(request((place, False), ids, min(rule.stride, left), 1))
            if ids:
                tokens = sampling.max_tokens if rule.probe is None else rule.max_probe_tokens
                made.append(request((place, True), [*ids, *probe], tokens, rule.num_rollouts))
        return made

    def decide(done: Trajectory, own: EarlyExit) -> bool:
        """Whether the rollouts end the text; sets its answer."""
        assert done.rollouts is not None
        rows = [done.rollouts.row(r) for r in range(len(done.rollouts))]
        own.rollout_tokens += sum(len(row.token_ids) for row in rows)
        before = own.token_ids if rule.probe is None else probe
        # A text that was cut after a probe stated its answer at once, or has none.
        cut = [row.finish_reason == "length" and rule.probe is None for row in rows]
        answers = read(texts([[*before, *row.token_ids] for row in rows]), cut)
        own.entropy[len(own.token_ids)] = answer_entropy(answers)
        most, number = Counter(answers).most_common(1)[0]
        if most is None or 2 * number <= len(answers) or own.entropy[len(own.token_ids)] > rule.threshold:
            return False
        own.answer, own.exited = most, True
        return True

    active = list(range(len(found)))
    while active:
        going = set(active)
        drawn: dict[int, Trajectory] = {}
        for done in engine.run(requests(active)):
            key = done.key
            assert isinstance(key, tuple)
            if not key[1]:
                drawn[key[0]] = done
            elif decide(done, found[key[0]]):
                going.discard(key[0])
        for place in sorted(going):
            rollouts = drawn[place].rollouts
            assert rollouts is not None
            row, own = rollouts.row(0), found[place]
            own.token_ids += [int(token) for token in row.token_ids]
            is_full = len(own.token_ids) >= sampling.max_tokens
            if row.finish_reason != "length" or is_full:
                own.answer = read(texts([own.token_ids]), [row.finish_reason == "length"])[0]
                going.discard(place)
        active = sorted(going)
    return found
