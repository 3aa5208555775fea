"""The embedder that ships with the package."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from asgi_llmgate.backends.embedders import minilm
from asgi_llmgate.backends.embedders.minilm import MODEL_FOLDER, MiniLMEmbedder
from asgi_llmgate.core.semantic.alias import Vector
from asgi_llmgate.errors import BackendError, ConfigurationError
from tests.conftest import ROOT


@pytest.fixture
async def embedder() -> AsyncIterator[MiniLMEmbedder]:
    made = MiniLMEmbedder()
    yield made
    await made.aclose()


def test_the_files_are_those_of_the_readme() -> None:
    """Another model under the same id would be compared with vectors of this one."""
    readme = (MODEL_FOLDER / "README.md").read_text()
    listed = re.findall(r"(\S+) +([\d,]+) bytes +sha256 ([0-9a-f]{64})", readme)

    assert [name for name, _, _ in listed] == ["model.onnx", "tokenizer.json"]
    for name, size, digest in listed:
        content = (MODEL_FOLDER / name).read_bytes()
        assert len(content) == int(size.replace(",", ""))
        assert hashlib.sha256(content).hexdigest() == digest
    assert MiniLMEmbedder.id.endswith(f"@{listed[0][2][:8]}")


async def test_what_means_the_same_is_near(embedder: MiniLMEmbedder) -> None:
    asked = await embedder.embed("How do I reset my password?")
    same = await embedder.embed("I forgot my password, how can I change it?")
    other = await embedder.embed("What is the capital of Mongolia?")

    assert float(asked @ same) > 0.7
    assert float(asked @ other) < 0.3


async def test_a_vector_is_of_unit_length_and_always_the_same(embedder: MiniLMEmbedder) -> None:
    texts = ["short", "Grüße aus 北京 🙂", "", "word " * 5000, "\ud800 half a pair"]
    alone = [await embedder.embed(text) for text in texts]
    together = await asyncio.gather(*(MiniLMEmbedder.embed(embedder, text) for text in texts))
    again = MiniLMEmbedder()
    afresh = [await again.embed(text) for text in texts]
    await again.aclose()

    for one, two, three in zip(alone, together, afresh, strict=True):
        assert one.dtype == np.float32
        assert one.shape == (384,)
        assert float(np.linalg.norm(one)) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


async def test_only_256_tokens_are_read(embedder: MiniLMEmbedder) -> None:
    long = await embedder.embed("apple " * 254)
    longer = await embedder.embed("apple " * 254 + "and something else entirely")

    assert np.array_equal(long, longer)


async def test_the_event_loop_goes_on_meanwhile(embedder: MiniLMEmbedder) -> None:
    await embedder.load()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    await embedder.embed("a long text " * 100)
    turning.cancel()

    assert turns > 1


async def test_what_is_too_much_is_refused_at_once() -> None:
    embedder = MiniLMEmbedder(max_waiting=3)
    results = await asyncio.gather(
        *(embedder.embed(f"text {number}") for number in range(10)), return_exceptions=True
    )

    assert [isinstance(one, BackendError) for one in results] == [False] * 3 + [True] * 7
    assert (await embedder.embed("afterwards")).shape == (384,)
    await embedder.aclose()


async def test_a_text_that_many_ask_for_at_once_is_embedded_once(
    embedder: MiniLMEmbedder,
) -> None:
    await embedder.load()
    run, runs = embedder._run, []
    assert run is not None

    def counted(text: str) -> Vector:
        runs.append(text)
        return run(text)

    embedder._run = counted
    vectors = await asyncio.gather(*(embedder.embed("the same") for _ in range(20)))

    assert runs == ["the same"]
    assert all(one is vectors[0] for one in vectors)


async def test_who_is_cancelled_makes_room() -> None:
    embedder = MiniLMEmbedder(max_waiting=2)
    tasks = [asyncio.create_task(embedder.embed(f"text {number}")) for number in range(2)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert (await embedder.embed("afterwards")).shape == (384,)
    await embedder.aclose()


async def test_a_closed_embedder_can_be_used_again(embedder: MiniLMEmbedder) -> None:
    before = await embedder.embed("a")
    await embedder.aclose()
    await embedder.aclose()

    assert np.array_equal(before, await embedder.embed("a"))
    assert (await embedder.embed("b")).shape == (384,)


async def test_a_model_that_is_damaged_is_a_failing_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    monkeypatch.setattr(minilm, "MODEL_FOLDER", tmp_path)
    embedder = MiniLMEmbedder()

    with pytest.raises(BackendError):
        await embedder.embed("a")
    await embedder.aclose()


def test_without_the_extra_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None if name == "tokenizers" else name)

    with pytest.raises(ConfigurationError, match=r"tokenizers.*\nHINT: .*\[semantic\]"):
        MiniLMEmbedder()


QUIETLY = """
import asyncio, os, sys, threading
from asgi_llmgate.backends.embedders.minilm import MiniLMEmbedder

async def main():
    embedder = MiniLMEmbedder()
    assert "onnxruntime" not in sys.modules
    await embedder.embed("a")
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{fd}")]
    before = len([link for link in links if link.startswith("socket:")])
    print(before)

asyncio.run(main())
"""


def test_nobody_is_told_and_nothing_is_kept_in_the_home_folder(tmp_path: Path) -> None:
    """onnxruntime's official builds report to Microsoft, unless they are told not to first."""
    done = subprocess.run(
        [sys.executable, "-c", QUIETLY],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert list(tmp_path.rglob("*")) == []
    # The event loop itself has a pair.
    assert int(done.stdout) <= 2


FORKS = """
import asyncio, os
from asgi_llmgate.backends.embedders.minilm import MiniLMEmbedder

embedder = MiniLMEmbedder()
parent = asyncio.run(embedder.embed("parent"))
pid = os.fork()
if not pid:
    child = asyncio.run(asyncio.wait_for(embedder.embed("another text"), 20))
    os._exit(0 if child.shape == (384,) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_forked_child_embeds_too() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "0"
