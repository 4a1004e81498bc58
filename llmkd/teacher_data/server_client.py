"""Requests to a server over HTTP: several at once, sent again where that may help.

Sent again are requests that got no whole answer (no connection, time-out), or one that says that the
server is busy or broken (408, 429, 5xx). Any other refusal is final.
"""

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2

from llmkd.errors import InputError, LlmkdError
from llmkd.progress import say
from llmkd.recipe.teacher_data import ServerEngine

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Seconds before a request is sent again: the first time, and at most, unless the server says more.

Then it is as many as the server says, but no more than `timeout_s`, which it could take anyway.
"""
CONNECT_TIMEOUT_S = 30.0
BUSY = (408, 429)

Read = TypeVar("Read")


class PassingError(Exception):
    """What may not happen again.

    Args:
        message: What happened.
        wait_s: Seconds after which the server wants to be asked again.
    """

    def __init__(self, message: str, wait_s: float | None = None):
        super().__init__(message)
        self.wait_s = wait_s


class RefusedError(InputError):
    """A request that the server refuses, however often it is sent."""


@dataclass(frozen=True)
class Request(Generic[Read]):
    """One thing to ask."""

    path: str
    read: Callable[[Any], Read]
    """Gets the answer, parsed, as soon as it is there; a PassingError has it asked again."""
    body: dict[str, Any] | None = None
    """None asks by GET."""


class ServerClient:
    """One server, and how patiently it is asked.

    Args:
        settings: Where it is, and the limits.
        sleep: Waits for so many seconds.
        key: Where a recipe has the settings, for messages.
    """

    def __init__(
        self,
        settings: ServerEngine,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        *,
        key: str = "engine",
    ):
        self.settings, self.key = settings, key
        self.url = re.sub(r"(/v1)?/*$", "", settings.base_url)
        self._key = _api_key(settings, key)
        self._sleep = sleep
        self._is_out = False
        self._jitter = random.Random()
        self._runner = asyncio.Runner()
        self._client = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(None, connect=min(settings.timeout_s, CONNECT_TIMEOUT_S)),
            limits=httpx2.Limits(max_connections=settings.max_concurrency),
            # Nobody else is to read the key: no redirects, and of the environment's proxies only
            # what passes an encrypted connection on unread.
            follow_redirects=False,
            trust_env=self.url.startswith("https:"),
        )

    def ask(self, requests: Sequence[Request[Read]], *, max_concurrency: int = 1) -> list[Read]:
        """Sends the requests, and reads each answer as soon as it is there.

        Args:
            requests: What to ask.
            max_concurrency: Requests that are waited for at once.

        Returns:
            What was read, in the order of the requests.

        Raises:
            RefusedError: The server will not do it.
            LlmkdError: No usable answer after `max_retries`.
        """
        return self._runner.run(self._ask(requests, max_concurrency))

    def masked(self, text: str) -> str:
        """A text of the server's without the key, which it may repeat."""
        for written in (self._key, quote(self._key, safe="")) if self._key else ():
            text = text.replace(written, "***")
        return text

    def close(self) -> None:
        """Closes the connections."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    async def _ask(self, requests: Sequence[Request[Read]], limit: int) -> list[Read]:
        places = asyncio.Semaphore(limit)

        async def in_turn(request: Request[Read]) -> Read:
            async with places:
                return await self._answer(request)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(in_turn(request)) for request in requests]
        except ExceptionGroup as failed:
            # The first one cancelled the others.
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _answer(self, request: Request[Read]) -> Read:
        num_retries = self.settings.max_retries
        for attempt in range(num_retries + 1):
            try:
                answer = request.read(await self._send(request))
            except InputError as error:
                raise type(error)(self.masked(str(error))) from None
            except PassingError as error:
                said = self.masked(str(error))
                if attempt == num_retries:
                    raise self._gave_up(said) from None
                await self._sleep(self._wait_s(attempt, said, error.wait_s))
            else:
                self._is_out = False
                return answer
        raise AssertionError("the last attempt returns or raises")

    async def _send(self, request: Request[Any]) -> Any:
        method = "GET" if request.body is None else "POST"
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                response = await self._client.request(method, request.path, json=request.body)
        except TimeoutError:
            raise PassingError(f"no answer within {self.settings.timeout_s:g} s") from None
        except httpx2.TransportError as error:
            raise PassingError(f"{type(error).__name__} {error}".strip()) from error
        if not response.is_success:
            raise _refusal(self.url + request.path, response, self.key)
        try:
            return response.json()
        except ValueError as error:
            raise PassingError("an answer that is no JSON") from error

    def _wait_s(self, attempt: int, said: str, wanted_s: float | None) -> float:
        if not self._is_out:
            self._is_out = True
            say(f"{self.url}: {said}; asking again")
        if wanted_s is not None:
            return min(wanted_s, max(self.settings.timeout_s, LONGEST_WAIT_S))
        # Requests that failed together shall not come back together.
        longest = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
        return longest * self._jitter.uniform(0.5, 1.0)

    def _gave_up(self, said: str) -> LlmkdError:
        return LlmkdError(
            f"{self.key}.base_url: {self.url} gave no usable answer, asked "
            f"{self.settings.max_retries + 1} times ({said}); start it (`vllm serve MODEL`), or write where it is, or larger "
            f"{self.key}.timeout_s or {self.key}.max_retries; what was saved before is kept"
        )


def _api_key(settings: ServerEngine, key: str) -> str:
    name = settings.api_key_variable
    if name is None:
        return ""
    if not os.environ.get(name):
        raise InputError(
            f"{key}.api_key_variable: the environment has no {name}; set it to the server's key"
        )
    return os.environ[name]


def _refusal(url: str, response: httpx2.Response, key: str) -> Exception:
    status = response.status_code
    message = f"{status} {_said(response)}"
    if response.is_redirect:
        to = response.headers.get("location", "elsewhere")
        return RefusedError(
            f"{key}.base_url: {url} sends to {to}, which is not followed; write that address if it is "
            "the server's"
        )
    if status in BUSY or status >= 500:
        return PassingError(message, _retry_after_s(response))
    if status in (401, 403):
        return RefusedError(f"{key}.api_key_variable: {url} refuses the key ({message})")
    return RefusedError(f"{key}.base_url: {url} refuses the request: {message}")


def _said(response: httpx2.Response) -> str:
    """What an error says, which vLLM's versions wrap in different ways."""
    try:
        content = json.loads(response.text)
        content = content.get("error", content)
        return str(content["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.text.strip()[:300] or response.reason_phrase


def _retry_after_s(response: httpx2.Response) -> float | None:
    """The header Retry-After: seconds, or a date."""
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        then = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, then - time.time())
