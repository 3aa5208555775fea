"""Keep records of calls that went past the gateway, and hand them in later.

One JSON object per line, in `spool.jsonl` of a folder (0700; files 0600). Several processes may
share the folder. Files come and go under its lock only, so what waits is read with `waiting`. A
batch is moved aside before it is sent and removed once a gateway has it, so it is sent at least
once; the gateway takes each id of a tenant once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Spool"]

logger = logging.getLogger("asgi_llmgate.client")

BATCH = 50
DEFAULT_MAX_BYTES = 16 * 1024 * 1024


class Spool:
    """See the module's docstring.

    Args:
        folder: Made if it is not there, when the first record is written.
        max_bytes: Of records that wait; what is beyond is counted in `dropped`.
    """

    def __init__(self, folder: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.dropped = 0
        self._delivering = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def path(self) -> Path:
        return self.folder / "spool.jsonl"

    def write(self, record: dict[str, Any]) -> None:
        """Append a record. Never raises: a full disk must not fail the call it is about."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            with self._locked():
                if self._waiting_bytes() + len(line) > self.max_bytes:
                    self.dropped += 1
                    return
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(descriptor, line)
                finally:
                    os.close(descriptor)
        except OSError as error:
            self.dropped += 1
            logger.warning("a record of a direct call was lost: %s", error.strerror)

    @property
    def is_empty(self) -> bool:
        return not self.path.exists() and not any(self.folder.glob("sending-*.jsonl"))

    def waiting(self) -> list[bytes]:
        """Return the lines that no gateway has yet, those of a batch on its way included."""
        if self.is_empty:
            return []
        with self._locked():
            return [line for file in self._files() for line in _lines(file)]

    def deliver(self, gateway_url: str, headers: dict[str, str]) -> bool:
        """Send everything that waits to a gateway; False if something still waits. Blocks."""
        with self._delivering:
            if self.is_empty:
                return True
            try:
                with self._lock_file("deliver.lock"):
                    return self._deliver(gateway_url, headers)
            except OSError as error:
                logger.warning("records of direct calls cannot be read: %s", error.strerror)
                return False

    def deliver_soon(self, gateway_url: str, headers: dict[str, str]) -> None:
        """As `deliver`, on a thread; one at a time."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(
            target=self.deliver, args=(gateway_url, headers), name="llmgate-spool", daemon=True
        )
        self._thread.start()

    def _deliver(self, gateway_url: str, headers: dict[str, str]) -> bool:
        import httpx

        with self._locked():
            if self.path.exists():
                # Names sort by age, so that what is oldest goes first.
                name = f"sending-{time.time_ns():020d}-{os.urandom(4).hex()}.jsonl"
                self.path.rename(self.folder / name)
        with httpx.Client(timeout=10, trust_env=False) as client:
            for sending in sorted(self.folder.glob("sending-*.jsonl")):
                lines = _lines(sending)
                for start in range(0, len(lines), BATCH):
                    body = b'{"records":[' + b",".join(lines[start : start + BATCH]) + b"]}"
                    try:
                        answer = client.post(
                            f"{_root(gateway_url)}/llmgate/api/v1/log",
                            content=body,
                            headers={**headers, "content-type": "application/json"},
                        )
                    except httpx.HTTPError as error:
                        logger.info("records of direct calls wait: %s", type(error).__name__)
                        return False
                    if answer.status_code >= 300:
                        logger.warning(
                            "the gateway does not take records of direct calls (%s); they wait",
                            answer.status_code,
                        )
                        return False
                with self._locked():  # Nobody may be counting what is there.
                    sending.unlink()
        return True

    def _waiting_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._files())

    def _files(self) -> list[Path]:
        """Return what there is, oldest first. Files come and go under the lock only."""
        files = [*sorted(self.folder.glob("sending-*.jsonl")), self.path]
        return [file for file in files if file.exists()]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock_file("spool.lock"):
            yield

    @contextlib.contextmanager
    def _lock_file(self, name: str) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _lines(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().split(b"\n") if line]


def _root(gateway_url: str) -> str:
    """Return where the gateway itself is, of a URL that may end in its version path."""
    return gateway_url.removesuffix("/v1beta").removesuffix("/v1")
