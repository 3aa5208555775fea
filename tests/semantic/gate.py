"""A whole gateway with a semantic tier, over a provider that answers by topic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asgi_llmgate.backends.cache_memory import MemoryCacheStore
from asgi_llmgate.backends.labels_memory import MemoryLabelStore
from asgi_llmgate.backends.vectors_memory import MemoryVectorIndex
from asgi_llmgate.core.semantic.policy import SemanticPolicy
from asgi_llmgate.gateway import LLMGate
from asgi_llmgate.middleware.semantic import SemanticTier
from asgi_llmgate.protocols import Authenticate, UpstreamRequest
from asgi_llmgate.settings import load_settings
from tests.asgi import Exchange, call
from tests.semantic.world import WordEmbedder, askings, body, topic_of
from tests.stub_upstream import Reply, StubResponse, StubUpstream

__all__ = ["COST_NANOUSD", "SemanticGate", "TopicUpstream", "learned_world"]

COST_NANOUSD = 2_000_000
KEYS = {"acme": "acme-key-0123456789", "other": "other-key-0123456789"}


class TopicUpstream(StubUpstream):
    """A provider that says the same of what means the same."""

    def __init__(self) -> None:
        super().__init__()
        self.version = "first"

    async def open(self, request: UpstreamRequest, /) -> StubResponse:
        assert isinstance(request.body, bytes)
        question = json.loads(request.body)["messages"][-1]["content"]
        answer = {
            "id": "1",
            "object": "chat.completion",
            "model": "gpt-4o",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {
                        "role": "assistant",
                        "content": f"About {topic_of(question)} ({self.version} edition).",
                    },
                }
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15},
        }
        self.script.append(Reply(chunks=(json.dumps(answer).encode(),)))
        return await super().open(request)


class Stores:
    """What workers share."""

    def __init__(self) -> None:
        self.cache = MemoryCacheStore()
        self.index = MemoryVectorIndex()
        self.labels = MemoryLabelStore()


class SemanticGate:
    """One worker. `luck` from 0, where every hit is checked, to 1, where none is."""

    def __init__(
        self,
        folder: Path,
        stores: Stores | None = None,
        rules: SemanticPolicy | None = None,
        authenticate: Authenticate | None = None,
    ) -> None:
        self.stores = stores or Stores()
        self.upstream = TopicUpstream()
        self.luck = 1.0
        settings = load_settings(
            data_dir=folder,
            keys=KEYS,
            cache={"enabled": True},
            providers={"openai": {"api_key": "sk-house"}},
        )
        self.gate = LLMGate(
            settings,
            authenticate=authenticate,
            upstream=self.upstream,
            cache_store=self.stores.cache,
            price=lambda *_: COST_NANOUSD,
        )
        self.tier = SemanticTier(
            embedder=WordEmbedder(),
            index=self.stores.index,
            labels=self.stores.labels,
            policy=rules or SemanticPolicy(),
            count=self.gate.metrics.count,
            roll=lambda: self.luck,
        )
        self.gate._given_semantic = self.tier

    async def ask(self, question: str, tenant: str | None = "acme", **headers: str) -> Exchange:
        key = {} if tenant is None else {"authorization": f"Bearer {KEYS[tenant]}"}
        exchange = await call(
            self.gate,
            body(question),
            path="/v1/chat/completions",
            headers=key | headers,
        )
        assert exchange.status == 200, exchange.body
        await self.tier.settled()
        return exchange

    async def learn(self, count: int = 300, tenant: str = "acme") -> None:
        """Let so many people ask."""
        for question, _ in list(askings())[:count]:
            await self.ask(question, tenant=tenant)


async def learned_world(folder: Path, **options: Any) -> SemanticGate:
    world = SemanticGate(folder, **options)
    await world.learn()
    return world
