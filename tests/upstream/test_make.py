from __future__ import annotations

import subprocess
import sys

import pytest

from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.upstream.httpx import HttpxUpstream
from asgi_llmgate.upstream.make import make_upstream
from asgi_llmgate.upstream.pyreqwest import PyreqwestUpstream


def test_the_named_client_is_made_with_its_options() -> None:
    rust = make_upstream("pyreqwest", max_connections=7, http2=True)
    python = make_upstream("httpx", max_connections=8)

    assert isinstance(rust, PyreqwestUpstream)
    assert (rust.max_connections, rust.http2) == (7, True)
    assert isinstance(python, HttpxUpstream)
    assert python.max_connections == 8


def test_a_missing_pyreqwest_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("pyreqwest")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "asgi_llmgate.upstream.pyreqwest")
    monkeypatch.delitem(sys.modules, "asgi_llmgate.upstream.pyreqwest_parts")
    monkeypatch.setitem(sys.modules, "pyreqwest", None)

    with pytest.raises(ConfigurationError, match=r"(?s)not installed.*HINT: .*\[standalone\]"):
        make_upstream("pyreqwest")
    assert isinstance(make_upstream("httpx"), HttpxUpstream)


def test_each_client_imports_its_own_library_only() -> None:
    code = (
        "import sys; from asgi_llmgate.upstream.make import make_upstream; "
        "assert 'httpx' not in sys.modules and 'pyreqwest' not in sys.modules; "
        "make_upstream('httpx'); assert 'pyreqwest' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
