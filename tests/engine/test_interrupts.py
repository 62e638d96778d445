"""Real signals in the middle of a block."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from fastsia.engine.interrupts import Uninterrupted


class Asked(BaseException):
    """What the handler of SIGTERM raises here."""


def ask(*_: object) -> None:
    raise Asked


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, ask), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Asked), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_wait_for_the_end_of_the_block(number: int, raised: type[BaseException]) -> None:
    done = []

    def work() -> None:
        with Uninterrupted():
            os.kill(os.getpid(), number)
            done.append("the rest")

    with pytest.raises(raised):
        work()
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGTERM) is ask
    with pytest.raises(raised):
        os.kill(os.getpid(), number)


def test_an_error_in_the_block_stays() -> None:
    with pytest.raises(ValueError, match="own"), Uninterrupted():
        raise ValueError("own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_that_are_the_systems_stay_as_they_are() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Uninterrupted():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)


def test_other_threads_are_left_alone() -> None:
    """Python refuses to set handlers there."""
    ended = []

    def work() -> None:
        with Uninterrupted():
            ended.append(signal.getsignal(signal.SIGTERM) is ask)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
