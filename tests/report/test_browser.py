"""The report as a reader meets it, in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fastsia.report import (
    AlternativeView,
    AnswerView,
    CheckpointView,
    RolloutView,
    TrajectoryView,
    write_comparison,
    write_report,
)
from fastsia.sia import tabulate
from tests.report.browser import Page, chromium, page
from tests.report.synthetic import report_data, rollouts

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine (Debian: apt install chromium)")

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    "{{7*7}}<!--\u2028 $\\frac $ <style>*{display:none}</style>"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = rollouts(30, 8)
    table.loc[table["answer"] == "12", "answer"] = HOSTILE
    table.loc[table["problem_id"] == "p7", "problem_id"] = HOSTILE
    return write_report(tmp_path_factory.mktemp("report"), report_data(table, hostile=HOSTILE))


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_complaint(tab: Page) -> Iterator[None]:
    tab.complaints.clear()
    yield
    tab.evaluate("1")
    assert tab.complaints == []


def test_page_opens_without_a_complaint(tab: Page, report: Path) -> None:
    tab.open(report)
    tab.wait("document.querySelectorAll('#list tbody tr').length === 25")
    tab.evaluate("document.getElementById('more').click()")
    assert tab.evaluate("document.querySelectorAll('#list tbody tr').length") == 30
    assert tab.evaluate("document.querySelectorAll('svg.figure').length") >= 10
    assert tab.evaluate("performance.getEntriesByType('resource').length") == 0


def test_table_sorts_and_filters(tab: Page, report: Path) -> None:
    tab.open(report)
    column = "[...document.querySelectorAll('#list tbody tr')].map(row => row.children[3].textContent)"
    click = "document.querySelectorAll('#list thead button')[3].click()"
    tab.evaluate(click)
    lengths = [int(text) for text in tab.evaluate(column)]
    assert lengths == sorted(lengths, reverse=True)
    tab.evaluate(click)
    shortest = [int(text) for text in tab.evaluate(column)]
    assert shortest == sorted(shortest)
    assert shortest[0] <= lengths[-1]
    tab.evaluate("$ = document.getElementById('outcome'); $.value = 'correct'; $.dispatchEvent(new Event('change'))")
    outcomes = set(
        tab.evaluate("[...document.querySelectorAll('#list tbody tr')].map(row => row.children[2].textContent)")
    )
    assert outcomes == {"correct"}
    tab.evaluate("$ = document.getElementById('search'); $.value = 'no such'; $.dispatchEvent(new Event('input'))")
    assert tab.evaluate("document.querySelectorAll('#list tbody tr').length") == 0


def test_viewer_shows_a_trajectory_and_its_rollouts(tab: Page, report: Path) -> None:
    tab.open(report)
    tab.evaluate("document.querySelector('#list tbody tr').click()")
    tab.wait("document.getElementById('viewer').open")
    checkpoints = tab.evaluate("document.querySelectorAll('#text .mark').length")
    assert checkpoints >= 4
    assert tab.evaluate("document.querySelectorAll('#chart circle').length") == 2 * checkpoints
    forks = tab.evaluate("[...document.querySelectorAll('#text .fork')].map(token => token.title)")
    assert forks
    assert all(title.endswith(" nats, forking") for title in forks)
    assert "forking: > " in tab.evaluate("document.getElementById('legend').textContent")
    tab.evaluate("document.querySelector('#text .mark').click()")
    assert "After 0 tokens: 20 rollouts" in tab.evaluate("document.getElementById('at').textContent")
    counts = tab.evaluate("[...document.querySelectorAll('#bars .count')].map(each => Number(each.textContent))")
    assert sum(counts) == 20
    assert counts == sorted(counts, reverse=True)
    tab.evaluate("document.querySelectorAll('#bars .answer')[1].click()")
    assert "####" in tab.evaluate("document.getElementById('sample').textContent")
    title = "document.getElementById('sample-title').textContent"
    assert tab.evaluate(title).startswith("A rollout, answer read: ")
    assert tab.evaluate("document.querySelector('#sample .read').textContent") in tab.evaluate(title)
    first = tab.evaluate("document.getElementById('viewer-title').textContent")
    tab.evaluate("document.getElementById('next').click()")
    tab.wait(f"document.getElementById('viewer-title').textContent !== {first!r}")
    tab.evaluate("document.getElementById('close').click()")
    assert not tab.evaluate("document.getElementById('viewer').open")


def test_no_text_has_the_colour_of_what_is_behind_it(tab: Page, report: Path) -> None:
    """The chosen answer and its count were white on white: it was styled as a pressed button."""
    tab.open(report)
    tab.evaluate("document.querySelector('#list tbody tr').click()")
    tab.wait("document.getElementById('viewer').open")
    tab.evaluate("document.getElementById('rendered').click()")
    hidden = """(() => {
      const behind = element => {
        for (; element; element = element.parentElement) {
          const colour = getComputedStyle(element).backgroundColor;
          if (!colour.startsWith("rgba")) return colour;
        }
      };
      return [...document.querySelectorAll("#viewer *")].filter(element =>
        [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) &&
        element.checkVisibility() && getComputedStyle(element).color === behind(element)
      ).map(element => element.className + ": " + element.textContent);
    })()"""
    assert tab.evaluate("document.querySelectorAll('#bars .answer.chosen .name').length") == 1
    assert tab.evaluate(hidden) == []


def test_viewer_opens_where_most_changes_and_shows_every_rollout(tab: Page, tmp_path: Path) -> None:
    """It opened at the end, where all rollouts agree; of the rollouts with one answer only the first could be read."""

    def point(position: int, *answers: AnswerView) -> CheckpointView:
        return CheckpointView(position, 0.5, 1.0, answers)

    view = TrajectoryView(
        **{"problem_id": "p0", "trajectory": 0, "question": "\\(2^2\\)?", "gold": "4", "answer": "4", "correct": True},
        tokens=["**so**", " \\[ \\frac{8}{2} \\]", " is", " 4"],
        place=(3, 4),
        checkpoints=[
            point(0, AnswerView("3", 1, [RolloutView("3", (0, 1))]), AnswerView("4", 1, [RolloutView("4")])),
            point(1, AnswerView("4", 2, [RolloutView("is 4", (3, 4)), RolloutView("needle 4")])),
            point(4, AnswerView("4", 2, [RolloutView(""), RolloutView("")])),
        ],
    )
    data = report_data(rollouts(2, 4))
    tab.open(
        write_report(
            tmp_path, replace(data, trajectories=data.trajectories.assign(problem_id=["p0", "p1"]), views=[view])
        )
    )
    text = "document.getElementById('{}').textContent"
    tab.evaluate("$ = document.getElementById('search'); $.value = 'needle'; $.dispatchEvent(new Event('input'))")
    assert tab.evaluate("document.querySelectorAll('#list tbody tr').length") == 0
    tab.evaluate("document.getElementById('deep').click()")
    tab.wait("document.querySelectorAll('#list tbody tr').length === 1")
    tab.evaluate("document.querySelector('#list tbody tr').click()")
    tab.wait("document.getElementById('viewer').open")
    assert tab.evaluate(text.format("at")).startswith("After 1 tokens")
    assert tab.evaluate("document.querySelector('#text .read').textContent") == " 4"
    assert tab.evaluate(text.format("sample-title")) == "Rollout 1 of 2, answer read: 4"
    tab.evaluate("document.getElementById('other').click()")
    assert tab.evaluate(text.format("sample")).endswith("needle 4")
    tab.evaluate("document.getElementById('later').click()")
    assert tab.evaluate(text.format("at")).startswith("After 4 tokens")
    tab.evaluate("document.getElementById('rendered').click()")
    assert tab.evaluate("document.querySelector('#prose strong').textContent") == "so"
    if find_spec("latex2mathml"):
        assert tab.evaluate("document.querySelectorAll('#prose mfrac, #question msup').length") == 2


def test_a_decisive_step_is_a_click_away(tab: Page, report: Path) -> None:
    """From the list of them, from the figure, and by a column and a filter of the list of trajectories."""
    tab.resize(1280, 800)
    tab.open(report)
    links = "[...document.querySelectorAll('#decisive .steps-list a')].map(link => link.getAttribute('href'))"
    marks = "[...document.querySelectorAll('#figure-steps a')].map(link => link.getAttribute('href'))"
    listed = tab.evaluate(links)
    assert len(listed) == 2
    assert sorted(listed) == sorted(tab.evaluate(marks))
    step = "document.getElementById('step').textContent"
    for link in ("#decisive .steps-list a", "#figure-steps a"):
        tab.evaluate(f"document.querySelector('{link}').dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
        tab.wait("document.getElementById('viewer').open")
        _, end = tab.evaluate("location.hash").removeprefix("#t").split("-")
        assert tab.evaluate("document.getElementById('at').textContent").startswith(f"After {end} tokens: 20 rollouts")
        assert tab.evaluate(step).endswith(": decisive")
        assert not tab.evaluate("document.getElementById('enlarged').open")
        tab.evaluate("document.getElementById('close').click()")
        tab.wait("location.hash === '#trajectories'")
    rows = tab.evaluate("document.querySelectorAll('#list tbody tr').length")
    tab.evaluate("$ = document.getElementById('outcome'); $.value = 'decisive'; $.dispatchEvent(new Event('change'))")
    tab.evaluate("document.querySelectorAll('#list thead button')[4].click()")
    column = "[...document.querySelectorAll('#list tbody tr')].map(row => row.children[4].textContent)"
    shown = tab.evaluate(column)
    assert 0 < len(shown) < rows
    assert all(text.endswith(" % decisive") for text in shown)
    sizes = [int(text.split()[0]) for text in shown]
    assert sizes == sorted(sizes, reverse=True)
    # A link opens what the filter hides.
    tab.evaluate("$ = document.getElementById('search'); $.value = 'no such'; $.dispatchEvent(new Event('input'))")
    tab.evaluate(f"location.hash = {listed[0]!r}")
    tab.wait("document.getElementById('viewer').open")
    tab.evaluate("document.getElementById('close').click()")


def test_what_a_step_changed_and_why_an_answer_was_read(tab: Page, tmp_path: Path) -> None:
    """No step is decisive; the q-value of the largest is above .05 by less than three digits show."""

    def point(position: int, *answers: AnswerView, **more: Any) -> CheckpointView:
        return CheckpointView(position, 0.5, 1.0, answers, (0.6, 0.4, 0.7), **more)

    first = RolloutView("#### 3", (5, 6), "asked", "eos")
    view = TrajectoryView(
        **{"problem_id": "p0", "trajectory": 0, "question": "2 + 2?", "gold": "4", "answer": "4", "correct": True},
        tokens=["It is", " 1", "2", " - 8", ". So", " ####", " 4", "\n"],
        place=(5, 7),
        rule="asked",
        rules={"asked": "the first one decides.", "none": "nothing is read."},
        checkpoints=[
            point(
                0, AnswerView("3", 2, [first, first]), AnswerView("5", 1), step=(1.0, 0.2, 0.0504), sentences=(0, 13)
            ),
            point(
                2,
                AnswerView("4", 3, [RolloutView("2 - 8", None, None, "length")]),
                step=(0.3, 0.2, 0.3),
                sentences=(0, 13),
            ),
            point(
                8,
                AnswerView("4", 2, [RolloutView("", (-2, -1), "asked", "answer")]),
                AnswerView(None, 1, [RolloutView("?", None, "none", "eos")]),
            ),
        ],
    )
    data = report_data(rollouts(2, 4))
    frame = data.trajectories.assign(problem_id=["p0", "p1"])
    tab.open(write_report(tmp_path, replace(data, trajectories=frame, views=[view])), "#t0")
    tab.wait("document.getElementById('viewer').open")
    text = "document.getElementById('{}').textContent"
    assert tab.evaluate(text.format("walk")).startswith("No step of it is decisive")
    assert tab.evaluate(text.format("at")).startswith("After 2 tokens: 3 rollouts")
    assert "changed 100 % of the answers (20 % by chance, q = 0.0504): not" in tab.evaluate(text.format("step"))
    assert tab.evaluate(text.format("said")) == "It is 12 - 8. …"
    assert tab.evaluate("document.querySelector('#said mark').textContent") == "It is 1"
    assert "changes 30 % of" in tab.evaluate(text.format("next-step"))
    sides = "[...document.querySelectorAll('#bars .answer')].map(bar => bar.textContent)"
    assert tab.evaluate(sides) == ["4 ✓03", "320", "510"]  # before, after
    assert tab.evaluate(text.format("sample")).endswith("2 - 8 (cut by the token limit)")
    assert tab.evaluate("document.querySelectorAll('#text > .read').length") == 1  # one frame around two tokens
    assert tab.evaluate("document.querySelector('#text .read').textContent") == " #### 4"
    assert tab.evaluate(text.format("why")) == "Why 4: the first one decides."
    assert "best estimate of H" in tab.evaluate("document.querySelector('#chart .keys').textContent")
    tab.press("ArrowLeft")
    tab.evaluate("document.getElementById('other').click()")
    assert tab.evaluate("document.querySelector('#sample .read').textContent") == "3"  # in the second rollout too
    assert tab.evaluate(text.format("sample-why")) == "Why 3: the first one decides."
    tab.evaluate("document.querySelectorAll('#text .token')[4].click()")  # a click on a step shows what it changed
    assert tab.evaluate(text.format("at")).startswith("After 8 tokens")
    assert "the text so far decides the answer" in tab.evaluate(text.format("sample"))
    tab.evaluate("document.querySelectorAll('#bars button')[1].click()")
    assert tab.evaluate(text.format("sample-why")) == "Why no answer: nothing is read."


def test_the_keyboard_reads_all(tab: Page, report: Path) -> None:
    """From the search field to the rollouts of an answer without a mouse; what has the focus is seen."""
    tab.resize(1280, 800)
    tab.open(report)
    tab.evaluate("document.getElementById('outcome').focus()")
    heads = tab.evaluate("document.querySelectorAll('#list thead button').length")
    tab.press("Tab", *["Tab"] * heads)
    focus = "document.activeElement"
    assert tab.evaluate(f"{focus}.className") == "name"
    first = tab.evaluate(f"{focus}.textContent")
    tab.press("ArrowDown")
    second = tab.evaluate(f"{focus}.textContent")
    assert second != first
    assert tab.evaluate(f"getComputedStyle({focus}).outlineStyle") == "solid"
    tab.press("Enter")
    title = "document.getElementById('viewer-title').textContent"
    tab.wait(f"document.getElementById('viewer').open && {title} === {second!r}")
    at = tab.evaluate("document.getElementById('at').textContent")
    tab.press("ArrowLeft")
    assert tab.evaluate("document.getElementById('at').textContent") != at
    tab.press("ArrowLeft", *["ArrowLeft"] * 20)
    assert "After 0 tokens" in tab.evaluate("document.getElementById('at').textContent")
    in_order = "[...document.querySelectorAll('#text .mark')].filter(mark => mark.tabIndex === 0)"
    assert tab.evaluate(f"{in_order}.map(mark => mark.getAttribute('aria-pressed')).join()") == "true"
    tab.evaluate("document.querySelector('#text .mark.here').focus()")
    tab.press("ArrowRight")
    assert tab.evaluate(f"{focus}.matches('.mark.here')")  # the focus follows
    tab.press("ArrowLeft")
    tab.evaluate("document.querySelector('#bars button').focus()")
    tab.press("ArrowDown", "Enter")
    assert tab.evaluate(f"{focus}.getAttribute('aria-pressed')") == "true"
    assert tab.evaluate("[...document.querySelectorAll('#bars button')].indexOf(document.activeElement)") == 1
    tab.press("n")
    tab.wait(f"{title} !== {second!r}")
    assert tab.evaluate(f"{focus}.matches('#bars button')")  # the focus is not lost
    tab.press("p")
    tab.wait(f"{title} === {second!r}")
    tab.press("Escape")
    tab.wait("!document.getElementById('viewer').open")
    unnamed = (
        "[...document.querySelectorAll('button, [tabindex=\"0\"], [role], input, select')].filter(each => !("
        "each.getAttribute('aria-label') || each.textContent.trim() || (each.labels && each.labels.length)"
        ") && !each.hidden).map(each => each.outerHTML)"
    )
    assert tab.evaluate(unnamed) == []


def test_tokens_whose_alternatives_were_drawn(tab: Page, tmp_path: Path) -> None:
    """A mark before the token; it and the key `a` show the answers after each token."""
    tokens = [
        AlternativeView(" is", 0.6, True, None, [("4", 3), (None, 1)]),
        AlternativeView(" be", 0.25, False, 0.0001, [("5", 4)]),
    ]
    view = TrajectoryView(
        **{"problem_id": "p0", "trajectory": 0, "question": "2 + 2?", "gold": "4", "answer": "4", "correct": True},
        tokens=["It", " is", " 4"],
        checkpoints=[CheckpointView(t, 0.5, 1.0, [AnswerView("4", 2, [RolloutView(" 4")])]) for t in (0, 3)],
        alternatives={1: tokens},
    )
    data = report_data(rollouts(2, 4))
    frame = data.trajectories.assign(problem_id=["p0", "p1"])
    tab.open(write_report(tmp_path, replace(data, trajectories=frame, views=[view])), "#t0")
    tab.wait("document.getElementById('viewer').open")
    heads = "[...document.querySelectorAll('#bars .token-head')].map(each => each.textContent)"
    assert tab.evaluate(heads) == []
    tab.press("a")
    assert tab.evaluate(heads) == [
        '" is" p = 0.60, 4 rollouts, the trajectory\'s own',
        '" be" p = 0.25, 4 rollouts, other answers than its own: q < 0.001',
    ]
    assert tab.evaluate("document.querySelectorAll('#bars .answer.gold').length") == 1
    assert tab.evaluate("document.querySelector('#text .mark.here').textContent") == "◇"
    tab.press("ArrowLeft")
    assert tab.evaluate(heads) == []
    tab.evaluate("document.querySelector('#text .mark.forced').click()")
    assert len(tab.evaluate(heads)) == 2


def test_a_figure_is_enlarged_and_gives_its_data(tab: Page, report: Path) -> None:
    tab.open(report)
    tab.evaluate("document.querySelector('[data-enlarge]').click()")
    assert tab.evaluate("document.querySelectorAll('#enlarged[open] svg.figure').length") == 1
    tab.evaluate("document.querySelector('#enlarged button').click()")
    assert not tab.evaluate("document.getElementById('enlarged').open")
    table = tab.evaluate("JSON.parse(document.getElementById('data-fig3_entropy').textContent)")
    assert table.startswith("curve,")


def test_a_link_to_the_glossary_opens_it(tab: Page, report: Path) -> None:
    tab.open(report)
    is_open = "document.querySelector('#glossary > details').open"
    assert not tab.evaluate(is_open)
    tab.evaluate("document.querySelector('nav a[href=\"#glossary\"]').click()")
    assert tab.evaluate(is_open)


def test_a_link_opens_its_trajectory(tab: Page, report: Path) -> None:
    tab.open(report, "?#t5")
    tab.wait("document.getElementById('viewer').open")
    assert tab.evaluate("document.getElementById('viewer-title').textContent") == "p5"
    tab.evaluate("location.hash = '#t6'")
    tab.wait("document.getElementById('viewer-title').textContent === 'p6'")


def test_hostile_text_stays_text(tab: Page, report: Path) -> None:
    """Answers, rollouts, questions, ids, model names: all of them come from strangers."""
    tab.open(report)
    for row in range(12):
        tab.evaluate(f"document.querySelectorAll('#list tbody tr')[{row}].click()")
        tab.wait(f"document.getElementById('viewer').open && location.hash === '#t{row}'")
        for mark in range(tab.evaluate("document.querySelectorAll('#text .mark').length")):
            tab.evaluate(f"document.querySelectorAll('#text .mark')[{mark}].click()")
    assert tab.evaluate("document.getElementById('question').textContent.includes('onerror')")
    assert tab.evaluate("document.querySelector('h1').textContent.includes('</script>')")
    assert tab.evaluate("window.hacked === undefined")
    assert tab.evaluate("document.images.length") == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_sideways(tab: Page, report: Path, width: int) -> None:
    tab.resize(width, 800)
    tab.open(report)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.evaluate("document.querySelector('#list tbody tr').click()")
    tab.wait("document.getElementById('viewer').open")
    assert tab.evaluate("document.getElementById('viewer').scrollWidth") <= width
    assert tab.evaluate("document.getElementById('text').clientHeight") > 60, "the reasoning is seen"
    # A click on a step left its text above the screen, since the first rollout's answer was scrolled to.
    tab.evaluate("document.getElementById('text').scrollIntoView()")
    tab.evaluate("document.querySelectorAll('#text .mark')[1].click()")
    places = (
        "[...document.querySelectorAll('#text .mark.here, #said mark')].map(each => each.getBoundingClientRect().top)"
    )
    assert all(0 < top < 800 for top in tab.evaluate(places))


@pytest.mark.parametrize("width", [390, 1280])
def test_a_comparison_opens_without_a_complaint(tab: Page, tmp_path: Path, width: int) -> None:
    runs = {"one": report_data(rollouts(12, 6)), HOSTILE: report_data(rollouts(12, 6, seed=1))}
    tables = {"runs": tabulate({label: data.summary for label, data in runs.items()})}
    tab.resize(width, 800)
    tab.open(write_comparison(tmp_path, runs, tables, notes=[HOSTILE]))
    assert tab.evaluate("document.querySelectorAll('svg.figure').length") == 6
    first = "[...document.querySelectorAll('#tables tbody tr')].map(row => row.children[0].textContent)"
    assert tab.evaluate(first)[:5] == ["model", "task", "problems", "accuracy", "the paper's ρ"]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("window.hacked === undefined && document.images.length === 0")


@pytest.mark.parametrize("width", [390, 1280])
def test_two_runs_of_one_problem_side_by_side(tab: Page, tmp_path: Path, width: int) -> None:
    runs = {"one": report_data(rollouts(12, 6)), HOSTILE: report_data(rollouts(12, 9, seed=1), hostile=HOSTILE)}
    tables = {"runs": tabulate({label: data.summary for label, data in runs.items()})}
    tab.resize(width, 800)
    tab.open(write_comparison(tmp_path, runs, tables))
    assert tab.evaluate("document.querySelectorAll('#pairs tbody tr').length") == 12
    tab.evaluate("document.querySelectorAll('#pairs button.name')[2].focus()")
    tab.press("Enter")
    tab.wait("document.getElementById('pair').open && document.querySelectorAll('.pane').length === 2")
    assert tab.evaluate("document.getElementById('pair-title').textContent") == "p2"
    lengths = [int(data.trajectories["last_checkpoint"].iloc[2]) for data in runs.values()]
    tokens = "[...document.querySelectorAll('.pane')].map(pane => pane.querySelectorAll('.token').length)"
    assert tab.evaluate(tokens) == lengths
    said = "[...document.querySelectorAll('.pane > .note')].map(each => parseInt(each.textContent.split(' ')[1]))"
    for share in (50, 0, 100):  # each shows its last checkpoint at or before the share
        tab.evaluate(f"$ = document.getElementById('along'); $.value = {share}; $.dispatchEvent(new Event('input'))")
        points = [data.checkpoints[data.checkpoints["problem_id"] == "p2"]["checkpoint"] for data in runs.values()]
        expected = [
            max(t for t in own if t <= share / 100 * length) for own, length in zip(points, lengths, strict=True)
        ]
        assert tab.evaluate(said) == expected
    tab.press("n")
    tab.wait("document.getElementById('pair-title').textContent === 'p3'")
    assert tab.evaluate("document.getElementById('pair').scrollWidth") <= width
    assert tab.evaluate("window.hacked === undefined && document.images.length === 0")
    tab.press("Escape")
    outcomes = [list(data.trajectories["correct"]) for data in runs.values()]
    tab.evaluate(
        "$ = document.getElementById('pair-outcome'); $.value = 'differs'; $.dispatchEvent(new Event('change'))"
    )
    differing = sum(bool(a) != bool(b) for a, b in zip(*outcomes, strict=True))
    assert tab.evaluate("document.querySelectorAll('#pairs tbody tr').length") == differing


@pytest.mark.slow
def test_a_thousand_trajectories(tab: Page, tmp_path: Path) -> None:
    """1,000 trajectories of 320 rollouts with texts of 250 words: at most 30 MB, first paint within 2 s."""
    table = rollouts(1000, 16)
    path = write_report(tmp_path, report_data(table, words_a_rollout=250))
    assert path.stat().st_size <= 30_000_000
    tab.open(path)
    tab.wait("performance.getEntriesByName('first-contentful-paint').length === 1")
    paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"{path.stat().st_size / 1e6:.1f} MB, first contentful paint after {paint:.0f} ms")
    assert paint < 2000
    tab.evaluate("document.querySelectorAll('#list tbody tr')[3].click()")
    tab.wait("document.getElementById('viewer').open")
