"""The protocol of Redis, version 2: just enough for a server that stands in front of one."""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["Connection", "RedisFailureError", "encode"]


class RedisFailureError(Exception):
    """What Redis answers with a minus sign."""


class Connection:
    """One connection, either way. `read` returns a value and the bytes that it was sent as."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._file = sock.makefile("rb")

    @classmethod
    def to(cls, port: int) -> Connection:
        return cls(socket.create_connection(("127.0.0.1", port), 10))

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def ask(self, *words: str | bytes) -> Any:
        self.send(encode([word.encode() if isinstance(word, str) else word for word in words]))
        value, _ = self.read()
        if isinstance(value, RedisFailureError):
            raise value
        return value

    def read(self) -> tuple[Any, bytes]:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest, line
            case b"-":
                return RedisFailureError(rest.decode()), line
            case b":":
                return int(rest), line
            case b"$":
                if int(rest) < 0:
                    return None, line
                body = self._file.read(int(rest) + 2)
                return body[:-2], line + body
            case b"*" | b"%":
                count = int(rest) * (2 if kind == b"%" else 1)
                parts = [self.read() for _ in range(max(0, count))]
                values = None if count < 0 else [value for value, _ in parts]
                return values, line + b"".join(raw for _, raw in parts)
        raise ValueError(f"unknown kind {line!r}")

    def close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._file.close()
        self.sock.close()


def encode(value: Any) -> bytes:
    """Return a value as Redis sends it."""
    match value:
        case None:
            return b"$-1\r\n"
        case RedisFailureError():
            return f"-{value}\r\n".encode()
        case int():
            return b":%d\r\n" % value
        case str():
            return encode(value.encode())
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case list() | tuple():
            return b"*%d\r\n" % len(value) + b"".join(encode(one) for one in value)
    raise TypeError(f"cannot send {value!r}")
