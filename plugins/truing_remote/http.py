"""One server, and patience with it: requests that are sent again when that can help, and words for when it cannot.

The key comes from the environment and is in no message.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio

from truing.errors import Problem, RunFailed, UserError
from truing_remote import addresses

try:
    import httpx2
except ImportError:
    missing = Problem("httpx2", "this package asks servers, and it is not installed", "pip install 'truing[server]'")
    raise UserError(missing) from None

START = "start the server (docs/how-to/generate.md has the command), or name its address with url"
AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers after which the same request may succeed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
_JITTER = random.Random()
CONNECT_SECONDS = 10.0
_WORDS = 300


class Absent(UserError):
    """Nobody was ever there."""


class Gone(RunFailed):
    """A server that was there does not answer any more, or not in time."""


class Refused(UserError):
    """The server understood and would not. status: of its answer."""

    def __init__(self, problem: Problem, status: int) -> None:
        super().__init__(problem)
        self.status = status


class Ask(Protocol):
    """Send a request and return what the answer says. patient: send it again when that can help."""

    def __call__(self, method: str, path: str, body: Any = None, *, patient: bool = True) -> Awaitable[Any]: ...


class Server:
    """A server by its address. `repeats` counts the requests that were sent again, `trouble` says why the last was.

    where: the component that asks, for what people are told. mends: what helps against a refusal, by its status, where
    the one who asks knows more than that.
    """

    def __init__(
        self,
        url: str,
        key_env: str,
        *,
        where: str,
        retries: int,
        timeout: float,
        mends: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.url = addresses.root(url)
        self.where = where
        self.repeats = 0
        self.trouble = ""
        self._mends = {**_MENDS, **mends}
        self._key = _key(key_env, where)
        self._retries = retries
        self._timeout = timeout
        self._reached = False
        # Reading the certificates takes a while, so it is done once, and not for plain http.
        secure = self.url.startswith("https:")
        self._tls = httpx2.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Ask]:
        """Requests share their connections as long as this is open; leaving it ends those under way."""
        # A proxy is for servers elsewhere: the own machine is not reached through one.
        elsewhere = not addresses.loopback(urlsplit(self.url).hostname or "")
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        patience = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        async with httpx2.AsyncClient(
            headers=headers, limits=limits, timeout=patience, trust_env=elsewhere, verify=self._tls
        ) as client:

            async def ask(method: str, path: str, body: Any = None, *, patient: bool = True) -> Any:
                return await self._ask(client, method, path, body, patient)

            yield ask

    async def _ask(self, client: httpx2.AsyncClient, method: str, path: str, body: Any, patient: bool) -> Any:
        attempt = 0
        while True:
            answer = None
            try:
                with anyio.fail_after(self._timeout):
                    answer = await client.request(method, self.url + path, json=body)
            except TimeoutError:
                raise self._late(path) from None
            except httpx2.TransportError as error:
                trouble = self._broken(error)
            else:
                self._reached = True
                if answer.is_success:
                    return self._content(answer, path)
                trouble = f"{answer.status_code} {self._words(answer)}"
                if answer.status_code not in AGAIN:
                    raise self._refused(answer, path)
            if not patient or attempt >= self._retries:
                raise Gone(f"{self.url}{path}: {trouble}, {_times(attempt + 1)}")
            await anyio.sleep(self._pause(attempt, answer, path))
            attempt += 1
            self.repeats, self.trouble = self.repeats + 1, trouble

    def _pause(self, attempt: int, answer: httpx2.Response | None, path: str) -> float:
        """How long to wait: what the server asks for, else longer each time; not all of the requests at once."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * _JITTER.uniform(0.5, 1)
        asked = _retry_after(answer.headers.get("retry-after", "")) if answer is not None else 0.0
        if asked > self._timeout:
            what = f"{self.url}{path}: {answer and answer.status_code}, and it asks for a pause of {asked:.0f} s"
            raise RunFailed(f"{what}; timeout is {self._timeout:g} s")
        return max(pause, asked + (_JITTER.uniform(0, FIRST_PAUSE) if asked else 0))

    def _content(self, answer: httpx2.Response, path: str) -> Any:
        if not answer.content.strip():
            return None
        try:
            return json.loads(answer.content)
        except ValueError:
            raise RunFailed(f"{self.url}{path} answers with something that is no JSON: {self._words(answer)}") from None

    def _broken(self, error: httpx2.TransportError) -> str:
        """Why there was no answer. Raises Absent when there never was one, so nobody waits for what is not there."""
        reason = self._hidden(str(error) or type(error).__name__)
        if not self._reached and isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            raise Absent(Problem(self.where, f"no server answers at {self.url}: {reason}", START))
        return reason

    def _late(self, path: str) -> Gone:
        mend = "raise timeout, lower concurrency, or ask for fewer tokens"
        return Gone(f"{self.url}{path} gave no answer in {self._timeout:g} s: {mend}")

    def _refused(self, answer: httpx2.Response, path: str) -> Refused:
        status = answer.status_code
        mend = self._mends.get(status, "")
        if status in (401, 403) and not self._key:
            mend = "put the key into an environment variable and name it with key_env"
        if answer.is_redirect:
            mend = f"name the place itself with url: it points to {answer.headers.get('location', 'nowhere')}"
        return Refused(Problem(self.where, f"{self.url}{path} refuses: {status} {self._words(answer)}", mend), status)

    def _words(self, answer: httpx2.Response) -> str:
        """What the server says is wrong, in one line and without the key."""
        text = answer.text
        try:
            said: Any = json.loads(text)
        except ValueError:
            said = text
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and name in said:
                said = said[name]
        said = said if isinstance(said, str) else json.dumps(said)
        line = self._hidden(" ".join(said.split())) or answer.reason_phrase
        return line if len(line) <= _WORDS else line[:_WORDS] + "..."

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "(hidden)") if self._key else text


_MENDS = {
    401: "the key in the variable that key_env names is not accepted",
    403: "the key in the variable that key_env names may not do this",
    404: "see that url is the address of the server and model the name that it serves",
}


def _key(variable: str, where: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(Problem(where, f"the environment variable {variable} holds no key", f"export {variable}=..."))
    if not key.isascii() or not key.isprintable() or " " in key:
        what = f"what the environment variable {variable} holds is no key: it has characters that no header takes"
        raise UserError(Problem(where, what))
    return key


def _retry_after(text: str) -> float:
    """Seconds from now, given as a number or as a date; 0 for neither."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _times(attempts: int) -> str:
    return "asked once" if attempts == 1 else f"asked {attempts} times"
