"""Make the transport that settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.protocols import Upstream
from asgi_llmgate.upstream.parts import DEFAULT_MAX_CONNECTIONS

__all__ = ["make_upstream"]


def make_upstream(
    client: Literal["h1", "pyreqwest", "httpx"] = "h1",
    *,
    max_connections: int | None = DEFAULT_MAX_CONNECTIONS,
    http2: bool = False,
    ca_file: Path | None = None,
) -> Upstream:
    """Return an `Upstream`; it is yours to close. Imports only the library that is named.

    Raises:
        ConfigurationError: that library is not installed.
    """
    if client == "httpx":
        from asgi_llmgate.upstream.httpx import HttpxUpstream

        return HttpxUpstream(max_connections=max_connections, http2=http2, ca_file=ca_file)
    try:
        if client == "h1":
            if http2:
                raise ConfigurationError(
                    "The upstream client h1 speaks HTTP/1.1 only.\n"
                    "HINT: leave HTTP/2 off, or set LLMGATE_UPSTREAM__CLIENT=pyreqwest."
                )
            from asgi_llmgate.upstream.h1 import H1Upstream

            return H1Upstream(max_connections=max_connections, ca_file=ca_file)
        from asgi_llmgate.upstream.pyreqwest import PyreqwestUpstream

        return PyreqwestUpstream(max_connections=max_connections, http2=http2, ca_file=ca_file)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("pyreqwest", "httptools"):
            raise
    raise ConfigurationError(
        f"The upstream client {client} needs {missing}, which is not installed.\n"
        'HINT: run `pip install "asgi-llmgate[standalone]"`, or set LLMGATE_UPSTREAM__CLIENT=httpx.'
    )
