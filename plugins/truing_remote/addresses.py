"""What the address of a server may be. Imports nothing heavy: a recipe's check uses it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from truing.stage import Fault

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
"""in capitals, as such names are by custom and keys are not: a key that stands here by mistake is not kept"""


def root(url: str) -> str:
    """The address without /v1 and without a slash at its end: what the paths of a server are appended to."""
    return url.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def problems(url: str, key_env: str) -> Iterable[Fault]:
    """What can be seen to be wrong with an address and the name of a key's variable, without asking anybody."""
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield Fault("url", f'"{_public(url)}" is no address of a server', 'write url = "http://127.0.0.1:8000"')
        return
    if "@" in parts.netloc:
        mend = "put the key into an environment variable and name it with key_env"
        yield Fault("url", "a password in a recipe is kept with every run of it", mend)
    if parts.query or parts.fragment:
        yield Fault("url", "an address of a server ends before ? and #", f'write url = "{_public(url)}"')
    if key_env and not _VARIABLE.fullmatch(key_env):
        # It may be the key itself: it is not said again.
        mend = 'export TRUING_KEY=... in the shell, and set key_env = "TRUING_KEY"'
        yield Fault("key_env", "this is no name of an environment variable, in capitals", mend)
    if key_env and parts.scheme == "http" and not loopback(parts.hostname):
        what = f"the key would go to {parts.hostname} in the clear"
        yield Fault("url", what, "use https, or a tunnel to 127.0.0.1")


def loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _public(url: str) -> str:
    """An address without user, password, question or fragment."""
    return re.sub(r"(?<=//)[^/@]*@", "", url.strip()).partition("?")[0].partition("#")[0]
