"""The demo task: word problems of several arithmetic steps, generated from a seed, without a download.

A problem is a short story of one of eight families. Its worked solution has one sentence per step, each with one
operation ("14*6=84"), and ends with the line "#### n". Stories contain numbers that the answer does not need. Solutions
do not name persons, things or days: a small model copies such words badly, and its uncertainty would be about them
instead of the arithmetic.

Every problem has its own random stream, keyed by a text, and uses only `random.Random.random`: Python guarantees that
both are the same in every version.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from fastsia.config import Problem
from fastsia.errors import FastsiaError

NUM_PROBLEMS = 2000
STRIDE = 4
INSTRUCTION = ""
"""Text added to a question in the prompt: none, because the demo models were trained on the bare question."""

T = TypeVar("T")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_WOMEN = _words(
    """
    Ada Alma Bella Clara Daisy Dora Elena Emma Farah Frida Greta Hana Helen Ines Iris Julia Kira Laura Lena Lucy
    Maya Mona Nina Nora Olga Paula Rosa Ruth Sara Sofia Tessa Vera
    """
)
_MEN = _words(
    """
    Adam Alan Boris Bruno Carl David Diego Emil Eric Felix Frank Gino Hugo Ivan Jack Jonas Karim Kevin Liam Luis
    Marco Noah Omar Oscar Pedro Peter Ravi Robin Simon Theo Tom Victor
    """
)
_GOODS = _words(
    """
    apples pears plums lemons oranges melons onions carrots peppers pumpkins potatoes cherries eggs muffins cookies
    rolls cakes pies candles roses tulips daisies pencils notebooks brushes cups plates spoons forks knives towels
    pillows
    """
)
_TREASURES = _words(
    """
    marbles stamps coins shells stickers cards beads buttons books comics badges stones feathers magnets puzzles
    ribbons tickets photos
    """
)
_MADE = _words(
    """
    chairs lamps toys kites posters shirts hats scarves bowls frames clocks bells gloves blankets baskets tables
    jackets umbrellas
    """
)
_BOXES = ("boxes", "crates", "bags", "bundles", "trays", "cartons", "sacks", "drawers")
_PLACES = ("school", "hospital", "library", "museum", "kitchen", "club", "bakery", "hotel", "neighbor", "garden")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
_TIMES = {2: "twice", 3: "3 times", 4: "4 times"}
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


@dataclass(frozen=True)
class Example:
    """A question, the text of its worked solution (its last line is "#### gold") and the gold answer's digits."""

    question: str
    solution: str
    gold: str


class _Draws:
    """Random choices from one keyed stream, by `random()` alone."""

    def __init__(self, key: str) -> None:
        self._random = random.Random(key).random

    def between(self, low: int, high: int) -> int:
        """Return an integer in low..high, both included."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def one(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Return `count` different items in random order."""
        rest = list(items)
        return [rest.pop(int(self._random() * len(rest))) for _ in range(count)]


class _Story:
    """A problem under construction: the sentences of the question and the steps of its solution."""

    def __init__(self, draws: _Draws) -> None:
        self.draws = draws
        self.sentences: list[str] = []
        self.steps: list[str] = []
        women = draws.chance(0.5)
        self.name, self.friend, self.other = draws.some(_WOMEN if women else _MEN, 3)
        self.pronoun = "she" if women else "he"
        self.Pronoun = self.pronoun.capitalize()
        self.possessive = "her" if women else "his"

    def tell(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def work(self, sentence: str, left: int, operation: str, right: int) -> int:
        """Add a step; "{}" in its sentence is replaced by the arithmetic. Return the result."""
        result = _OPERATIONS[operation](left, right)
        if result <= 0 or (operation == "/" and left % right):
            raise ValueError(f"{left}{operation}{right} leaves the positive integers")
        self.steps.append(sentence.format(f"{left}{operation}{right}={result}"))
        return result

    def sideline(self, sentence: str, probability: float = 0.5) -> None:
        """With this probability, add a sentence that the answer does not need."""
        if self.draws.chance(probability):
            self.tell(sentence)

    def finish(self, question: str, answer: int) -> Example:
        self.tell(question)
        return Example(" ".join(self.sentences), "\n".join([*self.steps, f"#### {answer}"]), str(answer))


def _divisor(draws: _Draws, total: int, choices: Sequence[int]) -> int | None:
    fitting = [n for n in choices if total % n == 0 and total > n]
    return draws.one(fitting) if fitting else None


def _stall(draws: _Draws) -> Example:
    """Changes of a stock; other goods on the stall are irrelevant."""
    story = _Story(draws)
    goods, others = draws.some(_GOODS, 2)
    box, other_box = draws.some(_BOXES, 2)
    count, size = draws.between(3, 12), draws.between(3, 8)
    opening = f"{story.name} has {count} {box} of {size} {goods}"
    if draws.chance(0.6):
        second = f"{draws.between(3, 12)} {other_box} of {draws.between(3, 8)} {others}"
        story.tell(
            f"{opening} and {second}."
            if draws.chance(0.5)
            else f"{story.name} has {second} and {count} {box} of {size} {goods}."
        )
    else:
        story.tell(f"{opening}.")
    total = story.work("At first {}.", count, "*", size)
    for move in draws.some(("sell", "restock", "give", "lose"), draws.between(2, 3)):
        if move == "sell":
            sold = draws.between(max(2, total // 8), max(3, total // 2))
            day = draws.one(_DAYS)
            story.tell(f"On {day} {story.pronoun} sells {sold} {goods}.")
            total = story.work("{} are left.", total, "-", sold)
        elif move == "restock":
            more, each = draws.between(2, 5), draws.between(3, 9)
            story.tell(f"Then {more} more {box} of {each} {goods} arrive.")
            new = story.work("{} arrive.", more, "*", each)
            total = story.work("Now {}.", total, "+", new)
        elif move == "give":
            parts = _divisor(draws, total, tuple(_FRACTIONS))
            if parts is None:
                continue
            place = draws.one(_PLACES)
            story.tell(f"{story.Pronoun} gives {_FRACTIONS[parts]} of the {goods} left to a {place}.")
            given = story.work("Given away {}.", total, "/", parts)
            total = story.work("Kept {}.", total, "-", given)
        else:
            bad = draws.between(2, max(3, min(19, total // 3)))
            story.tell(f"{bad} {goods} go bad.")
            total = story.work("{} are good.", total, "-", bad)
    ending = draws.between(0, 2)
    if ending == 0:
        price = draws.between(2, 4)
        story.tell(f"The rest are sold for {price} dollars each.")
        total = story.work("They bring {} dollars.", total, "*", price)
        return story.finish("How many dollars do they bring?", total)
    pack = _divisor(draws, total, (2, 3, 4, 5, 6, 7, 8, 9, 12))
    if ending == 1 and pack is not None:
        story.tell(f"{story.Pronoun} puts the rest into packs of {pack}.")
        total = story.work("That is {} packs.", total, "/", pack)
        return story.finish(f"How many packs of {goods} does {story.pronoun} have?", total)
    return story.finish(f"How many {goods} does {story.name} have now?", total)


def _collections(draws: _Draws) -> Example:
    """Comparisons of three persons' collections."""
    story = _Story(draws)
    things, others = draws.some(_TREASURES, 2)
    people = [story.name, story.friend, story.other]
    amounts = {people[0]: draws.between(6, 24)}
    facts = [f"{people[0]} has {amounts[people[0]]} {things}"]
    for place, person in zip(("second", "third"), people[1:], strict=True):
        known = draws.one(list(amounts))
        kind = draws.between(0, 2)
        if kind == 0:
            factor = draws.one(tuple(_TIMES))
            facts.append(f"{person} has {_TIMES[factor]} as many {things} as {known}")
            amounts[person] = story.work(f"The {place} has {{}}.", amounts[known], "*", factor)
        elif kind == 1:
            more = draws.between(3, 19)
            facts.append(f"{person} has {more} more {things} than {known}")
            amounts[person] = story.work(f"The {place} has {{}}.", amounts[known], "+", more)
        else:
            fewer = draws.between(3, amounts[known] - 4)
            facts.append(f"{person} has {fewer} fewer {things} than {known}")
            amounts[person] = story.work(f"The {place} has {{}}.", amounts[known], "-", fewer)
    first, second, third = facts if draws.chance(0.6) else (facts[2], facts[1], facts[0])
    story.tell(f"{first}. {second}. {third}.")
    story.sideline(f"{draws.one(people)} also has {draws.between(4, 60)} {others}.")
    if draws.chance(0.3):
        one, two = draws.some(people, 2)
        low, high = sorted((one, two), key=amounts.__getitem__)
        if amounts[low] == amounts[high]:
            low, high = people[0], people[2]
        pair = story.work("Together {}.", amounts[one], "+", amounts[two])
        price = draws.between(2, 4)
        story.tell(f"{one} and {two} sell all their {things} for {price} dollars each.")
        money = story.work("They get {} dollars.", pair, "*", price)
        return story.finish(f"How many dollars do {one} and {two} get?", money)
    total = story.work("Two have {}.", amounts[people[0]], "+", amounts[people[1]])
    total = story.work("All have {}.", total, "+", amounts[people[2]])
    if draws.chance(0.6):
        lost = draws.between(3, min(19, total - 2))
        story.tell(f"They put them together and lose {lost}.")
        total = story.work("{} are left.", total, "-", lost)
        share = _divisor(draws, total, (2, 3, 4, 5, 6, 7, 8, 9))
        if share is not None and draws.chance(0.7):
            story.tell(f"The rest is shared by {share} children.")
            total = story.work("Each gets {}.", total, "/", share)
            return story.finish(f"How many {things} does each child get?", total)
        return story.finish(f"How many {things} are left?", total)
    return story.finish(f"How many {things} do the three have together?", total)


def _shopping(draws: _Draws) -> Example:
    """Prices times amounts, a discount or a fee, and change."""
    story = _Story(draws)
    first, second, unneeded = draws.some(_GOODS, 3)
    price, dear = draws.between(2, 6), draws.between(7, 15)
    count, few = draws.between(4, 12), draws.between(2, 4)
    prices = [f"{first} cost {price} dollars", f"{second} cost {dear} dollars"]
    if draws.chance(0.5):
        prices.append(f"{unneeded} cost {draws.between(2, 25)} dollars")
    prices = draws.some(prices, len(prices))
    listed = f"{', '.join(prices[:-1])} and {prices[-1]}"
    story.tell(f"At a market {listed} each.")
    story.tell(f"{story.name} buys {count} {first} and {few} {second}.")
    one = story.work("The first cost {} dollars.", count, "*", price)
    two = story.work("The second cost {} dollars.", few, "*", dear)
    total = story.work("Together {} dollars.", one, "+", two)
    if draws.chance(0.4):
        off = draws.between(3, 19)
        story.tell(f"A coupon takes {off} dollars off.")
        total = story.work("With the coupon {} dollars.", total, "-", off)
    elif draws.chance(0.4):
        fee = draws.between(4, 19)
        story.tell(f"Delivery costs {fee} dollars more.")
        total = story.work("With delivery {} dollars.", total, "+", fee)
    ending = draws.between(0, 2)
    if ending == 0:
        paid = (total // 50 + draws.between(1, 4)) * 50
        story.tell(f"{story.Pronoun} pays with {paid} dollars.")
        change = story.work("The change is {} dollars.", paid, "-", total)
        return story.finish(f"How many dollars does {story.pronoun} get back?", change)
    people = _divisor(draws, total, (2, 3, 4, 5, 6, 7, 8, 9))
    if ending == 1 and people is not None:
        story.tell(f"{people} friends share the bill.")
        total = story.work("Each pays {} dollars.", total, "/", people)
        return story.finish("How many dollars does each friend pay?", total)
    return story.finish(f"How many dollars does {story.name} spend?", total)


def _workshop(draws: _Draws) -> Example:
    """A rate by the hour over several days, with waste."""
    story = _Story(draws)
    things = draws.one(_MADE)
    rate, hours = draws.between(4, 12), draws.between(5, 8)
    one_day, other_day = draws.some(_DAYS, 2)
    story.sideline(f"A shop has {draws.between(3, 30)} workers.", 0.4)
    story.tell(f"A machine makes {rate} {things} an hour.")
    change = draws.between(2, 3)
    longer = draws.chance(0.5)
    story.tell(
        f"On {one_day} it runs {hours} hours, and on {other_day} {change} hours {'longer' if longer else 'less'}."
    )
    other_hours = story.work("The other day {} hours.", hours, "+" if longer else "-", change)
    if draws.chance(0.5):
        both = story.work("That is {} hours.", hours, "+", other_hours)
        total = story.work("It makes {}.", rate, "*", both)
    else:
        one = story.work("One day {}.", rate, "*", hours)
        two = story.work("The other day {}.", rate, "*", other_hours)
        total = story.work("Together {}.", one, "+", two)
    if draws.chance(0.7):
        broken = draws.between(3, 19)
        story.tell(f"{broken} {things} are broken.")
        total = story.work("{} are good.", total, "-", broken)
    if draws.chance(0.5):
        price = draws.between(2, 4)
        story.tell(f"Each good one sells for {price} dollars.")
        story.sideline(f"It costs {draws.between(2, 9)} dollars to make.", 0.3)
        total = story.work("They sell for {} dollars.", total, "*", price)
        return story.finish("How many dollars do they bring?", total)
    size = _divisor(draws, total, (2, 3, 4, 5, 6, 7, 8, 9))
    if size is not None:
        box = draws.one(_BOXES)
        story.tell(f"The good ones are packed in {box} of {size}.")
        total = story.work("That is {}.", total, "/", size)
        return story.finish(f"How many {box} are there?", total)
    return story.finish(f"How many good {things} are there?", total)


def _journey(draws: _Draws) -> Example:
    """Distances at two speeds, and what is left of the road."""
    story = _Story(draws)
    fast, slow = 5 * draws.between(4, 9), draws.between(6, 15)
    long, short = draws.between(2, 5), draws.between(2, 4)
    vehicle = draws.one(("bus", "train", "truck", "car"))
    story.tell(
        f"{story.name} drives a {vehicle} for {long} hours at {fast} miles an hour, "
        f"then {short} hours at {slow} miles an hour."
    )
    story.sideline(f"The {vehicle} has {draws.between(4, 60)} seats.", 0.4)
    one = story.work("The first part is {} miles.", long, "*", fast)
    two = story.work("The second part is {} miles.", short, "*", slow)
    total = story.work("Together {} miles.", one, "+", two)
    if draws.chance(0.45):
        back = draws.between(6, 38)
        story.tell(f"Then {story.pronoun} turns and goes back {back} miles.")
        total = story.work("After turning {} miles.", total, "-", back)
    ending = draws.between(0, 2)
    if ending == 0:
        whole = total + draws.between(9, 75)
        story.tell(f"The town is {whole} miles from the start.")
        left = story.work("{} miles are left.", whole, "-", total)
        if draws.chance(0.5):
            speed = _divisor(draws, left, (2, 3, 4, 5, 6, 7, 8, 9))
            if speed is not None:
                story.tell(f"A walker does {speed} miles an hour.")
                hours = story.work("A walker needs {} hours.", left, "/", speed)
                return story.finish("How many hours would a walker need for the rest of the way?", hours)
        return story.finish("How many miles are left to the town?", left)
    if ending == 1:
        price = draws.between(2, 3)
        story.tell(f"Each mile from the start costs {price} cents.")
        total = story.work("The cost is {} cents.", total, "*", price)
        return story.finish("How many cents does it cost to be that far?", total)
    return story.finish(f"How many miles from the start is {story.name} now?", total)


def _sharing(draws: _Draws) -> Example:
    """Things put together, shared equally, and partly given on."""
    story = _Story(draws)
    things, others = draws.some(_TREASURES, 2)
    factor = draws.one(tuple(_TIMES))
    start, bags, each = draws.between(5, 15), draws.between(2, 5), draws.between(4, 12)
    story.tell(f"{story.name} finds {start} {things} and {story.friend} finds {_TIMES[factor]} as many.")
    story.sideline(f"{story.friend} also finds {draws.between(5, 80)} {others}.", 0.4)
    found = story.work("The friend finds {}.", start, "*", factor)
    total = story.work("Together they find {}.", start, "+", found)
    story.tell(f"{story.other} adds {bags} bags of {each} {things}.")
    added = story.work("{} are added.", bags, "*", each)
    total = story.work("Now there are {}.", total, "+", added)
    people = _divisor(draws, total, (3, 4, 5, 6, 7, 8, 9))
    if people is None:
        people = draws.between(3, 9)
        aside = total % people
        story.tell(f"They put {aside} aside.")
        total = story.work("They share {}.", total, "-", aside)
    story.tell(f"They share {'the rest' if len(story.steps) == 5 else 'them'} equally among {people} children.")
    share = story.work("Each child gets {}.", total, "/", people)
    if draws.chance(0.5) and share > 8:
        gift = draws.between(2, share - 3)
        child = draws.one(("Pia", "Max", "Zoe", "Leo"))
        story.tell(f"{child} is one of them and gives away {gift}.")
        left = story.work("The child keeps {}.", share, "-", gift)
        return story.finish(f"How many {things} does {child} keep?", left)
    return story.finish(f"How many {things} does each child get?", share)


def _hall(draws: _Draws) -> Example:
    """Rows and seats, taken and free."""
    story = _Story(draws)
    rows, seats = draws.between(7, 12), draws.between(6, 10)
    more_rows, more_seats = draws.between(2, 5), draws.between(4, 10)
    place = draws.one(("hall", "theater", "stadium", "church"))
    story.sideline(f"A {place} was built {draws.between(12, 90)} years ago.", 0.4)
    story.tell(f"A {place} has {rows} rows of {seats} seats and {more_rows} rows of {more_seats} seats upstairs.")
    below = story.work("Below are {} seats.", rows, "*", seats)
    above = story.work("Upstairs are {} seats.", more_rows, "*", more_seats)
    ending = draws.between(0, 2)
    if ending == 0:
        free = draws.between(5, 29)
        story.tell(f"{free} seats stay empty.")
        total = story.work("In all {} seats.", below, "+", above)
        total = story.work("{} are taken.", total, "-", free)
        if draws.chance(0.5):
            late = draws.between(4, 19)
            story.tell(f"Later {late} people leave.")
            total = story.work("{} people stay.", total, "-", late)
            return story.finish("How many people stay?", total)
        return story.finish("How many seats are taken?", total)
    if ending == 1:
        price = draws.between(2, 4)
        extra, upstairs = draws.between(2, 5), draws.chance(0.4)
        story.tell(f"A seat upstairs costs {price} dollars, one below {extra} dollars more.")
        story.tell(f"All seats {'upstairs' if upstairs else 'below'} are sold and no others.")
        each = price if upstairs else story.work("One below costs {} dollars.", price, "+", extra)
        total = story.work("They bring {} dollars.", above if upstairs else below, "*", each)
        return story.finish("How many dollars do they bring?", total)
    guests = draws.between(more_seats, below - 5)
    story.tell(f"{guests} people sit below and nobody sits upstairs.")
    total = story.work("{} seats below are free.", below, "-", guests)
    total = story.work("In all {} are free.", total, "+", above)
    return story.finish("How many seats are free?", total)


def _savings(draws: _Draws) -> Example:
    """Money saved week by week, spent, and a goal."""
    story = _Story(draws)
    weekly, weeks = draws.between(7, 15), draws.between(4, 8)
    jobs, pay = draws.between(2, 4), draws.between(6, 15)
    story.tell(f"{story.name} saves {weekly} dollars a week for {weeks} weeks.")
    story.sideline(f"{story.Pronoun} is {draws.between(12, 60)} years old.", 0.4)
    total = story.work("{} dollars are saved.", weekly, "*", weeks)
    if draws.chance(0.7):
        story.tell(f"{story.Pronoun} also earns {pay} dollars for each of {jobs} jobs.")
        earned = story.work("The jobs bring {} dollars.", pay, "*", jobs)
        total = story.work("Together {} dollars.", total, "+", earned)
    spent = draws.between(4, min(28, total - 12))
    story.tell(f"{story.Pronoun} spends {spent} dollars on {story.possessive} bike.")
    total = story.work("After the bike {} dollars are left.", total, "-", spent)
    ending = draws.between(0, 2)
    parts = _divisor(draws, total, tuple(_FRACTIONS))
    if ending == 0 and parts is not None:
        story.tell(f"{story.Pronoun} lends {story.friend} {_FRACTIONS[parts]} of what is left.")
        lent = story.work("The friend gets {} dollars.", total, "/", parts)
        total = story.work("Kept are {} dollars.", total, "-", lent)
        return story.finish(f"How many dollars does {story.name} keep?", total)
    if ending == 1:
        goal = total + draws.between(9, 80)
        story.tell(f"A trip costs {goal} dollars.")
        total = story.work("{} dollars are missing.", goal, "-", total)
        return story.finish("How many dollars are missing for the trip?", total)
    return story.finish(f"How many dollars does {story.name} have left?", total)


_FAMILIES = (_stall, _collections, _shopping, _workshop, _journey, _sharing, _hall, _savings)


def _draw(key: str) -> Example:
    """Draw the example of a key; a story with numbers that are not positive integers is drawn again."""
    for attempt in range(1000):
        draws = _Draws(f"fastsia demo/{key}/{attempt}")
        try:
            return draws.one(_FAMILIES)(draws)
        except ValueError:
            continue
    raise RuntimeError(f"no story for {key}")


@cache
def _evaluation() -> tuple[Example, ...]:
    examples: list[Example] = []
    seen: set[str] = set()
    for index in range(NUM_PROBLEMS):
        example, again = _draw(f"evaluation/{index}"), 0
        while example.question in seen:
            again += 1
            example = _draw(f"evaluation/{index}/{again}")
        seen.add(example.question)
        examples.append(example)
    return tuple(examples)


def evaluation_examples(limit: int = NUM_PROBLEMS) -> tuple[Example, ...]:
    """Return the first `limit` of the 2,000 evaluation problems with their solutions."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise FastsiaError(f"limit must be an integer >= 1, got {limit!r}.")
    return _evaluation()[:limit]


def problems(limit: int = NUM_PROBLEMS) -> list[Problem]:
    """Return the first `limit` problems of the demo task, with ids "demo-0000" to "demo-1999"."""
    return [
        Problem(
            f"demo-{index:04d}", example.question, example.gold, solution=example.solution.rpartition("\n")[0] or None
        )
        for index, example in enumerate(evaluation_examples(limit))
    ]


def training_examples(seed: int, use: str = "training") -> Iterator[Example]:
    """Yield an endless stream of examples without the evaluation questions.

    `use` names their purpose ("sft", "held out", ...): each purpose has its own streams.
    """
    held_out = {example.question for example in _evaluation()}
    index = 0
    while True:
        example = _draw(f"{use}/{seed}/{index}")
        index += 1
        if example.question not in held_out:
            yield example
