"""Options of whatever asks a server, written once. Imports nothing heavy: menus use it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Url = Annotated[str, Meta(min_length=1, description="where the server is, with or without /v1")]
Served = Annotated[str, Meta(description='what the server calls the model; "": the only one it serves')]
KeyEnv = Annotated[
    str, Meta(description='name of the environment variable that holds the API key; "": the server wants none')
]
Concurrency = Annotated[int, Meta(ge=1, description="most requests under way at a time")]
Retries = Annotated[
    int, Meta(ge=0, description="how often a request is sent again when the server is busy or the connection breaks")
]
Timeout = Annotated[float, Meta(gt=0, description="longest wait for the answer to a request, in seconds")]
HERE = "http://127.0.0.1:8000"
"""Where a server is by default."""
