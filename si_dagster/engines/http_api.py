"""An HTTP API spoken to with patience: bounded concurrency, retries, rate limits that are kept.

What may pass (no answer, 408, 429, 5xx) is tried again with exponential backoff, for as long as `patience`
says; what the server asks for (Retry-After, x-ratelimit-*) comes before the backoff, and holds for all
threads. It knows no models. The key is read from an environment variable and is in no message and no file.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from si_dagster.engines.base import EngineError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Status codes after which the same request may succeed."""

LONGEST_BACKOFF = 30.0
CONNECT_SECONDS = 10.0

DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


class Unanswered(Exception):
    """A request that may be tried again.

    Attributes:
        pause: Seconds the server asks for, if it does.
    """

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.pause = pause


class HttpApi:
    """JSON in, JSON out.

    Args:
        base_url: With version, without trailing path: http://127.0.0.1:8000/v1.
        api_key_env: Environment variable that holds the key; none is sent where it is not set.
        max_concurrency: Requests under way at once.
        patience: Seconds for which a request is tried again.
        timeout: Seconds for one answer.
    """

    def __init__(
        self, base_url: str, api_key_env: str, max_concurrency: int, patience: float, timeout: float
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise EngineError(f"base_url {base_url!r}: give the server's, as http://127.0.0.1:8000/v1")
        self.base_url, self.api_key_env = base_url.rstrip("/"), api_key_env
        self._patience, self._timeout = patience, timeout
        self._gate = RateGate()
        self._local = threading.local()
        self._max_concurrency = max_concurrency

    def get(self, path: str) -> Any:
        """The answer to GET."""
        return self._patiently("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to POST.

        Raises:
            EngineError: If the server refuses, or has not answered within the patience.
        """
        return self._patiently("POST", path, body)

    def each(self, ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """What `ask` returns for each item, in order; after the first failure nothing more is sent."""
        with ThreadPoolExecutor(self._max_concurrency) as threads:
            answers = [threads.submit(ask, item) for item in items]
            if any(answer.exception() for answer in wait(answers, return_when=FIRST_EXCEPTION).done):
                threads.shutdown(wait=True, cancel_futures=True)
        failed = next((a for a in answers if not a.cancelled() and a.exception()), None)
        if failed is not None:
            failed.result()
        return [answer.result() for answer in answers]

    def _patiently(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

        backoff = wait_random_exponential(multiplier=0.5, max=LONGEST_BACKOFF)

        def pause(state: Any) -> float:
            asked = state.outcome.exception().pause
            return backoff(state) if asked is None else asked

        retrying = Retrying(
            retry=retry_if_exception_type(Unanswered),
            wait=pause,
            stop=stop_after_delay(self._patience),
            reraise=True,
        )
        try:
            return retrying(self._once, method, path, body)
        except Unanswered as error:
            raise EngineError(
                f"{self.base_url}{path}: no answer within {self._patience:g} s: {error}; start the server "
                "again (a stage goes on from its last whole chunk), or raise patience"
            ) from error

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import requests

        self._gate.wait()
        try:
            answer = self._session().request(
                method, self.base_url + path, json=body, timeout=(CONNECT_SECONDS, self._timeout)
            )
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise Unanswered(f"{type(error).__name__}: {root_cause(error)}") from error
        self._gate.hold(announced_pause(answer.headers))
        if answer.status_code in PASSING and "insufficient_quota" not in answer.text:
            asked = retry_after(answer.headers)
            self._gate.hold(asked)
            raise Unanswered(f"status {answer.status_code}: {message_of(answer)}", asked)
        if not answer.ok:
            raise EngineError(self._refusal(path, answer.status_code, message_of(answer)))
        return answer.json()

    def _refusal(self, path: str, status: int, message: str) -> str:
        advice = {
            401: f"set the environment variable {self.api_key_env} to a key the server takes",
            403: f"the key in {self.api_key_env} may not do this",
            404: "check base_url (it ends in /v1) and the model",
            429: "the quota of this key is used up",
        }.get(status)
        return f"{self.base_url}{path}: status {status}: {message}" + (f"; {advice}" if advice else "")

    def _session(self) -> Any:
        """One a thread, with the key set aloud: else `requests` would look for one in ~/.netrc."""
        if not hasattr(self._local, "session"):
            import requests

            key = os.environ.get(self.api_key_env)

            def authorise(request: Any) -> Any:
                if key:
                    request.headers["Authorization"] = f"Bearer {key}"
                return request

            self._local.session = requests.Session()
            self._local.session.auth = authorise
        return self._local.session


class RateGate:
    """A time before which no thread sends."""

    def __init__(self) -> None:
        self._lock, self._opens = threading.Lock(), 0.0

    def hold(self, seconds: float | None) -> None:
        """Keep closed for at least so many seconds from now."""
        if seconds:
            with self._lock:
                self._opens = max(self._opens, time.monotonic() + seconds)

    def wait(self) -> None:
        """Sleep until it is open."""
        while (left := self._opens - time.monotonic()) > 0:
            time.sleep(left)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of `retry-after-ms` or `Retry-After`, which is a number or a date.

    Examples:
        >>> retry_after({"retry-after-ms": "250"}), retry_after({"Retry-After": "3"}), retry_after({})
        (0.25, 3.0, None)
    """
    found = {name.lower(): value for name, value in headers.items()}
    if "retry-after-ms" in found:
        return number(found["retry-after-ms"], 1e-3)
    value = found.get("retry-after", "")
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return number(value)


def announced_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds until requests or tokens are there again, where an answer says that none are left.

    Examples:
        >>> spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0.5s"}
        >>> announced_pause(spent), announced_pause({**spent, "x-ratelimit-remaining-requests": "3"})
        (60.5, None)
    """
    found = {name.lower(): value for name, value in headers.items()}
    pauses = [
        duration(found.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if found.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    return max((pause for pause in pauses if pause is not None), default=None)


def duration(text: str) -> float | None:
    """Seconds of `20ms`, `1m0.5s` or a plain number.

    Examples:
        >>> [duration(text) for text in ("20ms", "6m0s", "1h2m", "1.5", "soon")]
        [0.02, 360.0, 3720.0, 1.5, None]
    """
    found = DURATION.fullmatch(text)
    if not text or found is None:
        return number(text)
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000


def number(text: str, unit: float = 1.0) -> float | None:
    """A number that is not below zero, in units; `None` for other text."""
    return float(text) * unit if re.fullmatch(r"\d+(\.\d+)?", text.strip()) else None


def message_of(answer: Any) -> str:
    """What a server says about its refusal, in at most 500 characters."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:500] or answer.reason
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]


def root_cause(error: BaseException) -> BaseException:
    """The innermost of the errors that were wrapped into one."""
    inner = error.__cause__ or error.__context__
    return error if inner is None else root_cause(inner)
