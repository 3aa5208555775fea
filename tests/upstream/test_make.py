from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest

from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.upstream.h1 import H1Upstream
from asgi_llmgate.upstream.httpx import HttpxUpstream
from asgi_llmgate.upstream.make import make_upstream
from asgi_llmgate.upstream.pyreqwest import PyreqwestUpstream


def test_the_named_client_is_made_with_its_options() -> None:
    rust = make_upstream("pyreqwest", max_connections=7, http2=True)
    python = make_upstream("httpx", max_connections=8)
    in_loop = make_upstream("h1", max_connections=9)

    assert isinstance(rust, PyreqwestUpstream)
    assert (rust.max_connections, rust.http2) == (7, True)
    assert isinstance(python, HttpxUpstream)
    assert python.max_connections == 8
    assert isinstance(in_loop, H1Upstream)
    assert in_loop.max_connections == 9


@pytest.mark.parametrize(("client", "library"), [("pyreqwest", "pyreqwest"), ("h1", "httptools")])
def test_a_missing_library_is_a_configuration_error(
    client: Literal["pyreqwest", "h1"], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ("asgi_llmgate.upstream.pyreqwest", "asgi_llmgate.upstream.h1")
    for module in [name for name in sys.modules if name.startswith((library, *ours))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(ConfigurationError, match=rf"(?s){library}.*HINT: .*\[standalone\]"):
        make_upstream(client)
    assert isinstance(make_upstream("httpx"), HttpxUpstream)


def test_http2_is_not_promised_where_it_is_not_spoken() -> None:
    with pytest.raises(ConfigurationError, match="HINT: leave HTTP/2 off"):
        make_upstream("h1", http2=True)


def test_each_client_imports_its_own_library_only() -> None:
    code = (
        "import sys; from asgi_llmgate.upstream.make import make_upstream; "
        "assert 'httpx' not in sys.modules and 'pyreqwest' not in sys.modules; "
        "make_upstream('httpx'); assert 'pyreqwest' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
