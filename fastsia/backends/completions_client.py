"""One HTTP server that may be busy, slow or wrong: JSON calls with retries, a bounded number of them at a time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from fastsia.errors import FastsiaError

# What may pass by itself: time-outs, a full queue, a restart, a proxy without its server.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_LONGEST_QUOTE = 300

T = TypeVar("T")


class Denied(FastsiaError):
    """The server does not accept the key."""


class Refused(FastsiaError):
    """The server does not accept the request; the same one again would not be either."""


class Unanswered(FastsiaError):
    """Nothing came back from the address, or not in time."""


class Unsound(Exception):
    """An answer that is not what was asked for; worth another try."""


class _Passing(Exception):
    """A failure that may pass.

    kind: what it is for the caller if it does not. after: the seconds that the server asked to wait, if it did.
    """

    def __init__(self, reason: str, kind: type[FastsiaError] = FastsiaError, after: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.after = after


class Client:
    """Calls to one server, inside one event loop.

    Args:
        base_url: as other clients take it, with its /v1.
        key: sent as a bearer token, to this server only; never in a message.
        num_concurrent: calls under way at once.
        max_retries: further tries of a call that failed in a way that may pass.
        timeout: seconds without a byte before a call has failed.
        on_retry: called before each further try.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None,
        *,
        num_concurrent: int,
        max_retries: int,
        timeout: float,
        on_retry: Callable[[], None],
    ) -> None:
        self.base_url = base_url
        self.max_retries = max_retries
        self._on_retry = on_retry
        self._key = key
        self._free = asyncio.Semaphore(num_concurrent)
        host = urlsplit(base_url).hostname or ""
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(max_connections=num_concurrent, max_keepalive_connections=num_concurrent),
            # A proxy of the environment is for other machines.
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def call(
        self,
        path: str,
        body: dict[str, Any] | None,
        read: Callable[[Any], T],
        name: str,
        *,
        max_retries: int | None = None,
    ) -> T:
        """What `read` makes of the JSON answer to a POST (without a body: a GET); it may raise `Unsound`.

        name: what an error calls this call.

        Raises:
            Denied, Refused: at once.
            Unanswered, FastsiaError: where every try failed.
        """
        tries = 1 + (self.max_retries if max_retries is None else max_retries)
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(tries),
                wait=_wait,
                retry=retry_if_exception_type(_Passing),
                before_sleep=lambda _: self._on_retry(),
                reraise=True,
            ):
                with attempt:
                    return await self._once(path, body, read, name)
        except _Passing as error:
            count = f"{tries} times, at last" if tries > 1 else "once"
            raise error.kind(f"{name}: the server at {self.base_url} failed {count}: {error}.") from error
        raise AssertionError("a retry loop returns or raises")

    async def _once(self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T], name: str) -> T:
        try:
            async with self._free:
                answer = await self._http.request("GET" if body is None else "POST", path, json=body)
        except httpx.TimeoutException as error:
            raise _Passing(f"no answer in time ({type(error).__name__})", Unanswered) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Passing(self._quote(str(error)) or type(error).__name__, Unanswered) from error
        status = answer.status_code
        if status in _PASSING:
            raise _Passing(f"HTTP {status}, {self._quote(answer.text)}", after=_asked_to_wait(answer))
        if status in (401, 403):
            raise Denied(f"the server at {self.base_url} denies access: HTTP {status}, {self._quote(answer.text)}.")
        if status != 200:
            raise Refused(f"{name}: the server at {self.base_url} refuses: HTTP {status}, {self._quote(answer.text)}.")
        try:
            return read(json.loads(answer.content))
        except (ValueError, RecursionError) as error:  # of JSON and of UTF-8; of nothing but brackets
            raise _Passing(f"malformed JSON ({self._quote(answer.text)})") from error
        except Unsound as error:
            raise _Passing(str(error)) from error

    def _quote(self, text: str) -> str:
        """A server's own words: one line of bounded length, the key left out."""
        if self._key:
            text = text.replace(self._key, "***")
        line = " ".join(text.split()).rstrip(".")
        return line if len(line) <= _LONGEST_QUOTE else line[:_LONGEST_QUOTE] + "..."


_backoff = wait_exponential(multiplier=0.5, max=_LONGEST_WAIT_SECONDS) + wait_random(0, 0.5)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.after if isinstance(error, _Passing) else 0.0
    return max(_backoff(state), min(asked, _LONGEST_WAIT_SECONDS))


def _asked_to_wait(answer: httpx.Response) -> float:
    try:
        return max(float(answer.headers.get("Retry-After", 0)), 0.0)
    except ValueError:  # a date: the back-off will do
        return 0.0


class LoopThread:
    """An event loop in a thread of its own: it works beside a notebook's loop too, and can be left at any time."""

    def __enter__(self) -> LoopThread:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fastsia-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def cancel(self) -> None:
        """Ends what is under way, and waits until it is gone."""
        self.submit(self._cancel_others()).result()

    async def _cancel_others(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
