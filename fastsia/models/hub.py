"""Whether the Hugging Face Hub can be reached and has a file."""

from __future__ import annotations

import threading
from contextlib import suppress

_PROBE_SECONDS = 4.0


def hub_status(path: str) -> int | None:
    """The Hub's HTTP status for a path below its address; None if the Hub is offline or HF_HUB_OFFLINE is set.

    One request: transformers and datasets retry for half a minute, file by file, before they report the same. The
    request runs in a thread because name servers and every address of a host have time limits of their own, which add
    up.
    """
    import httpx
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return None
    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    status: list[int] = []

    def ask() -> None:
        with suppress(httpx.HTTPError):
            answer = httpx.head(
                f"{constants.ENDPOINT}/{path}", headers=headers, timeout=_PROBE_SECONDS, follow_redirects=True
            )
            status.append(answer.status_code)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return status[0] if status else None
