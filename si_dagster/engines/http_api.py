"""An HTTP API spoken to with patience: bounded concurrency, retries, rate limits that are kept.

What may pass (no answer, 408, 429, 5xx) is tried again with exponential backoff, for as long as `patience`
says; what the server asks for (Retry-After, x-ratelimit-*) comes before the backoff, holds for all threads
and uses up no patience while the server answers anyone. It knows no models and learns no rate: where the
server takes one request at a time, every answer costs one that is refused. The key is read from an
environment variable and is in no message and no file.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
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
        sent: When it was sent, on the monotonic clock.
        status: Code of the answer; `None` where there was none.
        pause: Seconds the server asks for; 0.0 (also a date that is past) leaves them to the backoff.
    """

    def __init__(self, what: str, sent: float, status: int | None = None, pause: float = 0.0) -> None:
        super().__init__(what)
        self.sent, self.status, self.pause = sent, status, pause

    @property
    def is_put_off(self) -> bool:
        """Whether the server is there and asks to come later."""
        return self.status == 429 or self.pause > 0


class HttpApi:
    """JSON in, JSON out.

    Args:
        base_url: With version, without trailing path: http://127.0.0.1:8000/v1.
        api_key_env: Environment variable that holds the key; none is sent where it is not set.
        max_concurrency: Requests under way at once.
        patience: Seconds for which a request that fails is tried again; one that is put off, for so long
            after the server last answered anyone.
        timeout: Seconds for one answer.
    """

    def __init__(
        self, base_url: str, api_key_env: str, max_concurrency: int, patience: float, timeout: float
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise EngineError(f"base_url {base_url!r}: give the server's, as http://127.0.0.1:8000/v1")
        self.base_url, self.api_key_env = base_url.rstrip("/"), api_key_env
        self._patience, self._timeout = patience, timeout
        self._gate = RateGate(max_concurrency)
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
        from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

        backoff = wait_random_exponential(multiplier=0.5, max=LONGEST_BACKOFF)
        started, failing_since = time.monotonic(), None

        def pause(state: Any) -> float:
            return state.outcome.exception().pause or backoff(state)

        def is_spent(state: Any) -> bool:
            nonlocal failing_since
            error = state.outcome.exception()
            if error.is_put_off:
                failing_since, since = None, max(started, self._gate.waiting_since)
            else:
                failing_since = failing_since or error.sent
                since = max(failing_since, self._gate.opens)
            return time.monotonic() - since >= self._patience

        retrying = Retrying(
            retry=retry_if_exception_type(Unanswered),
            wait=pause,
            stop=is_spent,
            reraise=True,
        )
        try:
            return retrying(self._once, method, path, body)
        except Unanswered as error:
            raise EngineError(self._given_up(path, error)) from error

    def _given_up(self, path: str, error: Unanswered) -> str:
        if error.status is None:
            what, advice = "no answer", "start the server again"
        elif error.status == 429:
            what, advice = "put off by its rate limit", f"lower max_concurrency ({self._max_concurrency})"
        else:
            what, advice = "no other answer", "see the log of the server"
        return (
            f"{self.base_url}{path}: {what} within {self._patience:g} s: {error}; {advice} (a stage goes on "
            "from its last whole chunk), or raise patience"
        )

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import requests

        with self._gate.passed() as sent:
            try:
                answer = self._session().request(
                    method, self.base_url + path, json=body, timeout=(CONNECT_SECONDS, self._timeout)
                )
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as error:
                raise Unanswered(f"{type(error).__name__}: {root_cause(error)}", sent) from error
            pause, status = announced_pause(answer.headers) or 0.0, answer.status_code
            if status in PASSING and "insufficient_quota" not in answer.text:
                pause = max(pause, retry_after(answer.headers) or 0.0)
                again = Unanswered(f"status {status}: {message_of(answer)}", sent, status, pause)
                if again.is_put_off:
                    self._gate.narrow()
                self._gate.hold(pause)
                raise again
            self._gate.widen()
            self._gate.hold(pause)
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
    """Lets requests through: none before the time the server named, no more at once than it bears.

    Each that is put off makes the gate narrower by one, so that after a pause as many go in as the server
    took before, at least one. An answer makes it wider by less than one: from 1 to 2 by three in a row.

    Args:
        widest: Requests inside at once, as long as none is put off.

    Attributes:
        opens: End of the last pause, on the monotonic clock.
        waiting_since: Time of the last answer, or end of the first pause after it. Later pauses do not
            count, else a server that puts everyone off would be waited for without end.
    """

    def __init__(self, widest: int) -> None:
        self._changed, self._inside = threading.Condition(), 0
        self._widest, self._width = widest, float(widest)
        self.opens, self.waiting_since, self._has_paused = 0.0, 0.0, False

    @contextmanager
    def passed(self) -> Iterator[float]:
        """Wait until it is open and has room, and be inside; gives the time of entry."""
        with self._changed:
            while (left := self.opens - time.monotonic()) > 0 or self._inside + 1 > self._width:
                self._changed.wait(left if left > 0 else None)
            self._inside += 1
        try:
            yield time.monotonic()
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def hold(self, seconds: float) -> None:
        """Keep closed for at least so many seconds from now."""
        if seconds > 0:
            with self._changed:
                self.opens = max(self.opens, time.monotonic() + seconds)
                if not self._has_paused:
                    self.waiting_since, self._has_paused = self.opens, True

    def narrow(self) -> None:
        """One was put off."""
        with self._changed:
            self._width = max(1.0, self._width - 1)

    def widen(self) -> None:
        """One was answered."""
        with self._changed:
            self._width = min(self._widest, self._width + 1 / (self._width + 1))
            self.waiting_since, self._has_paused = time.monotonic(), False


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
