"""JSON calls to one HTTP server, with retries and a bounded number of calls at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
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

from fastsia.errors import FastsiaError, one_line

# Statuses worth another try: time-outs, a full queue, a restart, a proxy without its server.
_TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_LONGEST_QUOTE = 300

T = TypeVar("T")


class Denied(FastsiaError):
    """The server does not accept the key."""


class Refused(FastsiaError):
    """The server does not accept the request; the same request would fail again."""


class Unanswered(FastsiaError):
    """The address did not answer, or not in time."""


class Unsound(Exception):
    """The response does not contain what was requested; the call is tried again."""


class _TransientError(Exception):
    """A failure worth another try.

    Attributes:
        kind: the error that the caller gets if every try fails.
        after: seconds that the server asked to wait; 0 without such a request.
    """

    def __init__(self, reason: str, kind: type[FastsiaError] = FastsiaError, after: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.after = after


class Client:
    """Calls to one server inside one event loop; an asynchronous context manager that closes its connections.

    Args:
        base_url: the server's URL, including its /v1.
        key: sent as a bearer token to this server only; left out of every message.
        num_concurrent: most calls in flight.
        max_retries: further tries of a call after a transient failure.
        timeout: seconds without a byte after which a call fails.
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
            # Proxies in the environment variables are for other machines.
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
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
        """POST `body`, or GET without one, and read the JSON response.

        Args:
            path: below the server's URL.
            body: sent as JSON; None makes the call a GET.
            read: turns the decoded response into the result; may raise `Unsound`.
            name: the call's name in error messages.
            max_retries: None is the client's.

        Raises:
            Denied, Refused: without another try.
            Unanswered, FastsiaError: every try failed.
        """
        tries = 1 + (self.max_retries if max_retries is None else max_retries)
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(tries),
                wait=_wait,
                retry=retry_if_exception_type(_TransientError),
                before_sleep=lambda _: self._on_retry(),
                reraise=True,
            ):
                with attempt:
                    return await self._once(path, body, read, name)
        except _TransientError as error:
            count = f"{tries} times, at last" if tries > 1 else "once"
            raise error.kind(f"{name}: the server at {self.base_url} failed {count}: {error}.") from error
        raise AssertionError("a retry loop returns or raises")

    async def _once(self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T], name: str) -> T:
        try:
            async with self._free:
                response = await self._http.request("GET" if body is None else "POST", path, json=body)
        except httpx.TimeoutException as error:
            raise _TransientError(f"no response in time ({type(error).__name__})", Unanswered) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _TransientError(self._quote(str(error)) or type(error).__name__, Unanswered) from error
        status = response.status_code
        if status in _TRANSIENT:
            raise _TransientError(f"HTTP {status}, {self._quote(response.text)}", after=_asked_to_wait(response))
        if status in (401, 403):
            raise Denied(f"the server at {self.base_url} denies access: HTTP {status}, {self._quote(response.text)}.")
        if status != 200:
            text = self._quote(response.text)
            raise Refused(f"{name}: the server at {self.base_url} refuses: HTTP {status}, {text}.")
        try:
            return read(json.loads(response.content))
        except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8; too many nested brackets
            raise _TransientError(f"malformed JSON ({self._quote(response.text)})") from error
        except Unsound as error:
            raise _TransientError(str(error)) from error

    def _quote(self, text: str) -> str:
        """The server's text as one line of bounded length, without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        line = one_line(text).rstrip(".")
        return line if len(line) <= _LONGEST_QUOTE else line[:_LONGEST_QUOTE] + "..."


_backoff = wait_exponential(multiplier=0.5, max=_LONGEST_WAIT_SECONDS) + wait_random(0, 0.5)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.after if isinstance(error, _TransientError) else 0.0
    return max(_backoff(state), min(asked, _LONGEST_WAIT_SECONDS))


def _asked_to_wait(response: httpx.Response) -> float:
    try:
        return max(float(response.headers.get("Retry-After", 0)), 0.0)
    except ValueError:  # a date; the back-off is used instead
        return 0.0
