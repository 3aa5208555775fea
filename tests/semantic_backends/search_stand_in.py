"""A server in front of a real Redis that answers the FT.* commands which we use.

Hashes are in the real Redis, so that they are written, expire and go as they do there. Each search
looks at all of them. Whatever it does not know is an error, never an empty answer.
"""

from __future__ import annotations

import re
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.cache.redis_server import RedisServer
from tests.semantic_backends.resp import Connection, RedisFailureError, encode

__all__ = ["SearchStandIn"]

KNN = re.compile(
    r"(?P<filter>.+)=>\[KNN (?P<k>\d+) @(?P<field>\w+) \$(?P<vector>\w+)"
    r"(?: EF_RUNTIME \$(?P<ef>\w+))? AS (?P<distance>\w+)\]"
)
CLAUSE = re.compile(r"\s*@(?P<field>\w+):\{(?P<tag>(?:[^}\\|]|\\.)+)\}")
TYPES = {"FLOAT16": np.float16, "FLOAT32": np.float32}


@dataclass
class Index:
    prefixes: list[str]
    separators: dict[str, str] = field(default_factory=dict)
    is_case_sensitive: dict[str, bool] = field(default_factory=dict)
    vectors: dict[str, dict[str, str]] = field(default_factory=dict)


class SearchStandIn:
    """Args:
    redis: Where all other commands go.
    missing: How it says that there is no index, as versions of the module differ.
    """

    def __init__(self, redis: RedisServer, missing: str = "{}: no such index") -> None:
        self.redis = redis
        self.missing = missing
        self.indexes: dict[str, Index] = {}
        self.asked: list[list[bytes]] = []
        """The FT.* commands."""
        self.hellos: list[bytes] = []
        self.nil_fields = False
        """Answer as Redis 8.8 does of what expires while it is looked for."""
        self._lock = threading.Lock()
        self._open: list[Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lose_everything(self) -> None:
        """As a restart without persistence does."""
        self.redis.command("FLUSHALL")
        self.indexes.clear()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Connection(sock),), daemon=True).start()

    def _serve(self, client: Connection) -> None:
        self._open.append(client)
        try:
            server = Connection.to(self.redis.port)
        except OSError:
            client.close()
            return
        self._open.append(server)
        is_resp3 = False
        try:
            while True:
                words, raw = client.read()
                name = words[0].upper()
                if name == b"HELLO":
                    self.hellos.append(words[1])
                    is_resp3 = words[1] == b"3"
                if name.startswith(b"FT."):
                    answer = (
                        RedisFailureError("ERR only protocol 2")
                        if is_resp3
                        else self._answer(words)
                    )
                    client.send(encode(answer))
                else:
                    server.send(raw)
                    client.send(server.read()[1])
        except (OSError, ValueError):
            client.close()
            server.close()

    def _answer(self, words: list[bytes]) -> Any:
        name = words[0].decode().upper()
        rest = words[1:]
        with self._lock:
            self.asked.append(words)
            try:
                match name:
                    case "FT._LIST":
                        return list(self.indexes)
                    case "FT.CREATE":
                        return self._create(rest)
                    case "FT.INFO":
                        self._index(rest[0])
                        return ["index_name", rest[0], "num_docs", 0]
                    case "FT.SEARCH":
                        return self._search(rest)
            except RedisFailureError as failure:
                return failure
        return RedisFailureError(f"ERR unknown command '{name}', with args beginning with: ")

    def _index(self, name: bytes) -> Index:
        index = self.indexes.get(name.decode())
        if index is None:
            raise RedisFailureError(self.missing.format(name.decode()))
        return index

    def _create(self, words: list[bytes]) -> str:
        name, *rest = [word.decode() for word in words]
        if name in self.indexes:
            raise RedisFailureError("Index already exists")
        if rest[:3] != ["ON", "HASH", "PREFIX"]:
            raise RedisFailureError(f"Unknown argument {rest[:3]}")
        count = int(rest[3])
        index = Index(rest[4 : 4 + count])
        fields = rest[rest.index("SCHEMA") + 1 :]
        while fields:
            column, kind = fields[0], fields[1]
            fields = fields[2:]
            if kind == "TAG":
                index.separators[column] = ","
                index.is_case_sensitive[column] = False
                while fields and fields[0] in ("SEPARATOR", "CASESENSITIVE"):
                    if fields[0] == "SEPARATOR":
                        index.separators[column] = fields[1]
                        fields = fields[1:]
                    else:
                        index.is_case_sensitive[column] = True
                    fields = fields[1:]
            elif kind == "VECTOR":
                number = int(fields[1])
                options = fields[2 : 2 + number]
                index.vectors[column] = dict(zip(options[::2], options[1::2], strict=True))
                index.vectors[column]["ALGORITHM"] = fields[0]
                fields = fields[2 + number :]
            else:
                raise RedisFailureError(f"Unknown type {kind}")
        self.indexes[name] = index
        return "OK"

    def _search(self, words: list[bytes]) -> list[Any]:
        index, query = self._index(words[0]), words[1].decode()
        options = _options(words[2:])
        first, number = options.get("LIMIT", (0, 10))
        if (knn := KNN.fullmatch(query)) is not None:
            found = self._nearest(index, knn, options)
        else:
            found = [(key, row) for key, row in self._rows(index) if _fits(index, row, query)]
        answer: list[Any] = [len(found)]
        for key, row in found[first : first + number]:
            answer.append(key)
            if options.get("NOCONTENT"):
                continue
            returned = options.get("RETURN", row)
            pairs = [(name, row[name]) for name in returned if name in row]
            answer.append(None if self.nil_fields else [part for pair in pairs for part in pair])
        return answer

    def _nearest(
        self, index: Index, knn: re.Match[str], options: dict[str, Any]
    ) -> list[tuple[bytes, dict[str, bytes]]]:
        vector = index.vectors[knn["field"]]
        if knn["ef"] and vector["ALGORITHM"] != "HNSW":
            raise RedisFailureError("Invalid option: EF_RUNTIME")
        kind, dims = TYPES[vector["TYPE"]], int(vector["DIM"])
        blob = options["PARAMS"][knn["vector"]]
        size = dims * np.dtype(kind).itemsize
        if len(blob) != size:
            raise RedisFailureError(
                "Error parsing vector similarity query: query vector blob size "
                f"({len(blob)}) does not match index's expected size ({size})."
            )
        if vector["DISTANCE_METRIC"] != "COSINE" or options.get("SORTBY") != knn["distance"]:
            raise RedisFailureError("not what this stand-in is for")
        asked = np.frombuffer(blob, kind).astype(np.float32)
        found = []
        for key, row in self._rows(index):
            if not _fits(index, row, knn["filter"]) or len(row[knn["field"]]) != size:
                continue
            own = np.frombuffer(row[knn["field"]], kind).astype(np.float32)
            lengths = float(np.linalg.norm(own)) * float(np.linalg.norm(asked))
            distance = 1 - float(own @ asked) / lengths
            found.append((distance, key, row | {knn["distance"]: f"{distance:.12g}".encode()}))
        found.sort(key=lambda one: one[:2])
        return [(key, row) for _, key, row in found[: int(knn["k"])]]

    def _rows(self, index: Index) -> list[tuple[bytes, dict[str, bytes]]]:
        redis = Connection.to(self.redis.port)
        try:
            rows = []
            for prefix in index.prefixes:
                for key in redis.ask("KEYS", f"{prefix}*"):
                    pairs = redis.ask("HGETALL", key)
                    names = [name.decode() for name in pairs[::2]]
                    if names:
                        rows.append((key, dict(zip(names, pairs[1::2], strict=True))))
            return rows
        finally:
            redis.close()


def _fits(index: Index, row: dict[str, bytes], query: str) -> bool:
    if query == "*":
        return True
    if not (query.startswith("(") and query.endswith(")")):
        raise RedisFailureError("Syntax error: a filter is in parentheses")
    rest = query[1:-1]
    while rest:
        clause = CLAUSE.match(rest)
        if clause is None:
            raise RedisFailureError(f"Syntax error at {rest!r}")
        rest = rest[clause.end() :]
        name = clause["field"]
        if name not in index.separators:
            raise RedisFailureError(f"Unknown field {name}")
        wanted = re.sub(r"\\(.)", r"\1", clause["tag"])
        values = row.get(name, b"").decode().split(index.separators[name])
        if not index.is_case_sensitive[name]:
            wanted, values = wanted.lower(), [value.lower() for value in values]
        if wanted not in values:
            return False
    return True


def _options(words: list[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    words = list(words)
    while words:
        name = words.pop(0).decode().upper()
        match name:
            case "NOCONTENT":
                found[name] = True
            case "DIALECT":
                if words.pop(0) != b"2":
                    raise RedisFailureError("not what this stand-in is for")
            case "LIMIT":
                found[name] = int(words.pop(0)), int(words.pop(0))
            case "RETURN":
                count = int(words.pop(0))
                found[name] = [word.decode() for word in words[:count]]
                del words[:count]
            case "SORTBY":
                found[name] = words.pop(0).decode()
                if words and words[0] in (b"ASC", b"DESC") and words.pop(0) == b"DESC":
                    raise RedisFailureError("not what this stand-in is for")
            case "PARAMS":
                count = int(words.pop(0))
                pairs = words[:count]
                found[name] = {
                    key.decode(): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)
                }
                del words[:count]
            case _:
                raise RedisFailureError(f"Unknown argument {name}")
    return found
