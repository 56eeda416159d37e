"""How the Hugging Face hub is reached: nothing is waited for without an end.

The hub's library waits for ever for some answers, and for all of them as long as a byte comes now
and then. Here headers, and an answer that is read at once, have one deadline; a file may take as
long as it takes, while it comes at more than a crawl.
"""

import importlib
import time
from collections.abc import Iterator
from typing import Any

from huggingface_hub import errors, set_client_factory
from huggingface_hub.utils import _http as hub_http

from finetune.deadline import GivenUpError, within
from finetune.text.masking import HUB_TOKENS, check_token

# For the headers, redirects and all; and for the whole of an answer that is no file.
ANSWER_SECONDS = 30.0
# What is sent, and files that come, may be slow, but not slower than this over a minute.
SLOWEST_BYTES_PER_SECOND = 10_000
PACE_SECONDS = 60.0
# Of an answer that is read at once.
LARGEST_ANSWER = 256 * 2**20

# httpx, since 2.0 of the hub's library httpx2.
_httpx: Any = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])


def prepare_hub() -> None:
    """Make ready to ask the hub: a token that can be sent, and deadlines, unless the user's own
    program has given the hub's library another client.

    Raises UsageError for the token.
    """
    for variable in HUB_TOKENS:
        check_token(variable)
    default = hub_http.default_client_factory
    if getattr(hub_http, "_GLOBAL_CLIENT_FACTORY", default) is default:
        set_client_factory(_make_client)


class DeadlineClient(_httpx.Client):  # type: ignore[misc]
    """A client whose every answer has an end."""

    def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Send as the client's own `send`; raises its ReadTimeout where an answer does not end."""
        _limit_silence(request)
        sent = int(request.headers.get("Content-Length", 0))
        seconds = ANSWER_SECONDS + sent / SLOWEST_BYTES_PER_SECOND
        parent: Any = super()

        def ask() -> Any:
            answer = parent.send(request, stream=True, **options)
            if not stream:
                answer.stream = _Bounded(answer.stream, request)
                answer.read()
            return answer

        try:
            answer = within(seconds, ask)
        except GivenUpError:
            message = f"no whole answer in {seconds:g} seconds"
            raise _httpx.ReadTimeout(message, request=request) from None
        if stream:
            answer.stream = _Paced(answer.stream, request)
        return answer


class _Bounded(_httpx.SyncByteStream):  # type: ignore[misc]
    """A body that is read at once, up to LARGEST_ANSWER."""

    def __init__(self, stream: Any, request: Any) -> None:
        self._stream, self._request = stream, request

    def __iter__(self) -> Iterator[bytes]:
        come = 0
        for part in self._stream:
            come += len(part)
            if come > LARGEST_ANSWER:
                message = f"the answer is larger than {LARGEST_ANSWER // 2**20} MiB"
                raise _httpx.RemoteProtocolError(message, request=self._request)
            yield part

    def close(self) -> None:
        self._stream.close()


class _Paced(_Bounded):
    """A body that comes at more than a crawl."""

    def __iter__(self) -> Iterator[bytes]:
        come, since = 0, time.monotonic()
        for part in self._stream:
            come += len(part)
            passed = time.monotonic() - since
            if passed > PACE_SECONDS:
                if come < passed * SLOWEST_BYTES_PER_SECOND:
                    message = f"only {come:,} bytes came in {passed:.0f} seconds"
                    raise _httpx.ReadTimeout(message, request=self._request)
                come, since = 0, time.monotonic()
            yield part


def _make_client() -> Any:
    # As the hub's library makes its own.
    hooks = {"request": [hub_http.hf_request_event_hook]}
    return DeadlineClient(event_hooks=hooks, follow_redirects=True, timeout=None)


def _limit_silence(request: Any) -> None:
    """Let a thread that is no longer waited for end as well."""
    limits = dict(request.extensions.get("timeout") or {})
    for kind in ("connect", "read", "write", "pool"):
        if limits.get(kind) is None:
            limits[kind] = ANSWER_SECONDS
    request.extensions["timeout"] = limits
