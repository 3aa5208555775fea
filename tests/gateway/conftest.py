from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_llmgate.backends.memory import MemoryLogSink
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.settings import load_settings
from tests.stub_upstream import StubUpstream

MakeGate = Callable[..., LLMGate]


@pytest.fixture
def upstream() -> StubUpstream:
    return StubUpstream()


@pytest.fixture
def log() -> MemoryLogSink:
    return MemoryLogSink()


@pytest.fixture
def make_gate(
    tmp_path: Path, upstream: StubUpstream, log: MemoryLogSink, monkeypatch: pytest.MonkeyPatch
) -> MakeGate:
    """Build a gateway over `upstream` that logs to `log`; settings by keyword."""
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)

    def make(authenticate: Any = None, price: Any = None, **settings: Any) -> LLMGate:
        loaded = load_settings(data_dir=tmp_path / "data", **settings)
        return LLMGate(loaded, authenticate=authenticate, log=log, upstream=upstream, price=price)

    return make
