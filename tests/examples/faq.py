"""What customers of the shop ask: a few things, in many words. Written for these tests."""

from __future__ import annotations

import random
from itertools import product

__all__ = ["ANSWERS", "askings"]

ANSWERS = {
    "delivery": "Parcels arrive within three days.",
    "returns": "You can send things back for free within a month.",
    "payment": "We take cards and bank transfers.",
    "opening": "The shop in Main Street is open from nine to six.",
    "warranty": "Engines have a warranty of five years.",
    "gift": "Gift wrapping costs two dollars.",
    "repair": "Broken engines are repaired in our workshop.",
}

CORES = {
    "delivery": [
        "how long does delivery take",
        "how many days until my parcel arrives",
        "when will my parcel be delivered",
        "how fast do you deliver parcels",
    ],
    "returns": [
        "how can I return a slide rule",
        "can I send a slide rule back",
        "is it possible to return something I bought",
        "how do returns work",
    ],
    "payment": [
        "which payment methods do you accept",
        "can I pay by card",
        "how can I pay for my order",
        "do you accept card payments",
    ],
    "opening": [
        "when is the shop in Main Street open",
        "what are the opening hours of the shop",
        "at what time does the shop open",
        "what hours is the store open",
    ],
    "warranty": [
        "how long is the warranty of an engine",
        "what warranty do engines have",
        "do engines come with a warranty",
        "for how many years is an engine under warranty",
    ],
    "gift": [
        "do you offer gift wrapping",
        "can you wrap it as a gift",
        "what does gift wrapping cost",
        "how much is gift wrap",
    ],
    "repair": [
        "do you repair broken engines",
        "can my broken engine be repaired",
        "where can I get an engine repaired",
        "who repairs a broken engine",
    ],
}
BEGINNINGS = ("", "Hello, ", "Hi! ", "Quick question: ", "Please tell me, ", "Sorry to ask, ")
ENDS = ("?", "? Thanks", " please?")


def askings() -> list[tuple[str, str]]:
    """Return all questions with their topics, mixed, always in the same order."""
    every = [
        (f"{begin}{core}{end}", topic)
        for topic, cores in CORES.items()
        for core, begin, end in product(cores, BEGINNINGS, ENDS)
    ]
    random.Random(7).shuffle(every)
    return every
