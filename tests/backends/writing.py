"""A process that writes call records: `python -m tests.backends.writing FOLDER HOW [NUMBER]`.

It prints `<monotonic nanoseconds> <id>` for each record, after `write` returned.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path

from asgi_llmgate.backends.journal import JournalLogSink
from tests.backends.records import make_record


def write(sink: JournalLogSink, number: int) -> None:
    for _ in range(number):
        record = make_record(request_body=b"{}", id=f"{os.getpid()}-{time.monotonic_ns()}")
        sink.write(record)
        print(time.monotonic_ns(), record.id, flush=True)


def write_and_return(folder: Path, number: int) -> None:
    """Leave all to what happens at exit."""
    write(JournalLogSink(folder), number)


def write_forever(folder: Path, number: int) -> None:
    sink = JournalLogSink(folder)
    while True:
        write(sink, number)
        time.sleep(0.0002)  # As a server waits for its sockets.


def write_in_children(folder: Path, number: int) -> None:
    """Write in forked and spawned children of a process that has written itself."""
    sink = JournalLogSink(folder)
    write(sink, number)
    forked = get_context("fork").Process(target=write, args=(sink, number))
    spawned = get_context("spawn").Process(target=write_and_return, args=(folder, number))
    for child in (forked, spawned):
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(f"{child} failed")
    # The connection is still good, whatever the child did with its copy.
    write(sink, number)


def write_under_asyncio(folder: Path, number: int) -> None:
    async def main() -> None:
        write(JournalLogSink(folder), number)

    asyncio.run(main())


WAYS = {
    "return": write_and_return,
    "forever": write_forever,
    "children": write_in_children,
    "asyncio": write_under_asyncio,
}

if __name__ == "__main__":
    WAYS[sys.argv[2]](Path(sys.argv[1]), int(sys.argv[3]))
