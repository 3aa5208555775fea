"""A small world: a few things people ask, in many words, and a model that knows the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from asgi_llmgate.core.semantic.alias import Vector
from asgi_llmgate.errors import BackendError
from tests.cache.model import Model, Parts

__all__ = ["TOPICS", "TopicModel", "WordEmbedder", "askings", "body", "topic_of"]

BEGINNINGS = ("", "please tell me ", "hi there, ", "quick question: ", "hello, can you say ")
ENDS = ("", " please", " thanks", " many thanks in advance", " if you know")

TOPICS = {
    "opening": ["when does the store open", "what are the opening hours of the store"],
    "parking": ["where can visitors leave a car", "is there parking for visitors of the shop"],
    "refund": ["how do I return a lamp for a refund", "can a lamp be returned for money back"],
    "delivery": ["how long does shipping take", "how many days until a parcel is delivered"],
    "payment": ["which cards are accepted", "can customers pay by credit card"],
    "repair": ["do you fix broken chairs", "is repairing a broken chair possible"],
    "jobs": ["are you hiring drivers", "is there an open position as a driver"],
    "gift": ["do you wrap presents", "can you wrap this as a present"],
}


def askings() -> Iterator[tuple[str, str]]:
    """Return all questions with their topics, mixed, always in the same order."""
    every = [
        (f"{begin}{core}{end}", topic)
        for topic, cores in TOPICS.items()
        for core, begin, end in product(cores, BEGINNINGS, ENDS)
    ]
    yield from sorted(every, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())


def topic_of(question: str) -> str:
    [topic] = [
        topic for topic, cores in TOPICS.items() if any(core in question for core in cores)
    ] or ["other"]
    return topic


def body(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": question}]} | more


class TopicModel(Model):
    """Answers alike what means the same. `version` is part of what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.version = "1"

    def said_of(self, question: str) -> str:
        return f"About {topic_of(question)}, edition {self.version}."

    def answer(self, path: str, request: dict[str, Any]) -> tuple[Parts, bytes]:
        turns = request.get("messages") or request.get("input")
        last = turns[-1]["content"] if isinstance(turns, list) else turns
        self.text = self.said_of(str(last))
        return super().answer(path, request)


class WordEmbedder:
    """Each word is a direction; nothing is learned, nothing is loaded."""

    id = "words@1"

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fails = False

    async def embed(self, text: str, /) -> Vector:
        self.texts.append(text)
        if self.fails:
            raise BackendError("no vectors today")
        vector = np.zeros(512, np.float32)
        for word in text.lower().replace("?", " ").replace(",", " ").split():
            digest = hashlib.sha256(word.encode()).digest()
            vector[int.from_bytes(digest[:2], "big") % 512] += 1
        length = float(np.linalg.norm(vector))
        return vector / np.float32(length or 1.0)

    async def aclose(self) -> None:
        return None
