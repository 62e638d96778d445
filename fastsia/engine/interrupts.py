"""Blocks of code that Ctrl-C and SIGTERM do not cut in two."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Uninterrupted:
    """Delays the handlers of SIGINT and SIGTERM to the end of the block, so that tables are whole when they raise.

    Python calls signal handlers in the main thread only; in any other thread this does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._noted: list[tuple[int, FrameType | None]] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):  # not the system's default, and not one that C code has installed
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        except BaseException:  # the handler of the second, before it was replaced
            self._restore()
            raise

    def __exit__(self, *_: object) -> None:
        handlers = self._restore()
        for number, frame in self._noted:
            handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append((number, frame))

    def _restore(self) -> dict[int, Any]:
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return handlers
