"""What was learned, in the memory of one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from asgi_llmgate.protocols import LabelsRead

__all__ = ["DEFAULT_WINDOW", "MemoryLabelStore"]

# What a model is made from: older verdicts say less of today's questions.
DEFAULT_WINDOW = 6000


class MemoryLabelStore:
    """Keep labels in this process: forgotten with it, and not shared.

    Args:
        window: How many labels of a partition are kept.
    """

    def __init__(self, *, window: int = DEFAULT_WINDOW) -> None:
        self._window = window
        self._learned: dict[str, _Learned] = {}

    async def append(self, partition: str, labels: Sequence[bytes]) -> None:
        learned = self._of(partition)
        learned.labels.extend(labels)
        learned.last += len(labels)

    async def since(self, partition: str, *, after: int, model_version: int) -> LabelsRead:
        learned = self._learned.get(partition)
        if learned is None:
            return LabelsRead(0, 0, [], None)
        number = min(len(learned.labels), max(0, learned.last - after))
        labels = list(learned.labels)[len(learned.labels) - number :]
        is_new = learned.model is not None and learned.version != model_version
        model = (learned.version, learned.model) if is_new and learned.model is not None else None
        return LabelsRead(learned.epoch, learned.last, labels, model)

    async def set_model(self, partition: str, model: bytes) -> int:
        learned = self._of(partition)
        learned.version += 1
        learned.model = model
        return learned.version

    async def reset(self, partition: str) -> None:
        learned = self._of(partition)
        learned.labels.clear()
        learned.model = None
        learned.epoch += 1

    async def partitions(self) -> list[str]:
        return sorted(
            partition
            for partition, learned in self._learned.items()
            if learned.labels or learned.model is not None
        )

    async def aclose(self) -> None:
        self._learned.clear()

    def _of(self, partition: str) -> _Learned:
        learned = self._learned.get(partition)
        if learned is None:
            learned = self._learned[partition] = _Learned(self._window)
        return learned


class _Learned:
    """Of one partition. `last` and `version` only grow."""

    def __init__(self, window: int) -> None:
        self.epoch = 0
        self.last = 0
        self.labels: deque[bytes] = deque(maxlen=window)
        self.version = 0
        self.model: bytes | None = None
