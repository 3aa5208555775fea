"""Make the transport that settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.protocols import Upstream
from asgi_llmgate.upstream.parts import DEFAULT_MAX_CONNECTIONS

__all__ = ["make_upstream"]


def make_upstream(
    client: Literal["pyreqwest", "httpx"] = "pyreqwest",
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
        from asgi_llmgate.upstream.pyreqwest import PyreqwestUpstream
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "pyreqwest":
            raise
        raise ConfigurationError(
            "The upstream client is pyreqwest, which is not installed.\n"
            'HINT: run `pip install "asgi-llmgate[standalone]"`, '
            "or set LLMGATE_UPSTREAM__CLIENT=httpx."
        ) from None
    return PyreqwestUpstream(max_connections=max_connections, http2=http2, ca_file=ca_file)
