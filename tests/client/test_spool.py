from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pytest_httpx import HTTPXMock

from asgi_llmgate.client.spool import Spool
from asgi_llmgate.core.json import loads

GATEWAY = "http://gateway-a.test:8790/v1"


def test_what_waits_can_be_read_while_it_is_on_its_way(
    tmp_path: Path, httpx_mock: HTTPXMock
) -> None:
    """Files come and go under the lock, so a reader and a writer never meet half a move."""
    httpx_mock.add_response(status_code=200, is_reusable=True)
    spool, done = Spool(tmp_path), threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(len(spool.waiting()))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(60):
            spool.write({"id": str(number)})
            assert spool.deliver(GATEWAY, {})
    finally:
        done.set()
        reader.join()

    assert spool.dropped == 0
    assert max(seen) <= 1
    sent = [loads(request.content)["records"] for request in httpx_mock.get_requests()]
    assert [record["id"] for batch in sent for record in batch] == [str(n) for n in range(60)]


def test_a_batch_that_no_gateway_took_still_waits(tmp_path: Path, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=503)
    spool = Spool(tmp_path)
    spool.write({"id": "a"})

    assert not spool.deliver(GATEWAY, {})
    spool.write({"id": "b"})


@pytest.mark.parametrize("number", [1, 120])
def test_records_go_in_batches_and_in_order(
    tmp_path: Path, httpx_mock: HTTPXMock, number: int
) -> None:
    httpx_mock.add_response(status_code=200, is_reusable=True)
    spool = Spool(tmp_path)
    for index in range(number):
        spool.write({"id": index})

    assert spool.deliver(GATEWAY, {})
    assert spool.waiting() == []

    sent = [loads(request.content)["records"] for request in httpx_mock.get_requests()]
    assert all(len(batch) <= 50 for batch in sent)
    assert [record["id"] for batch in sent for record in batch] == list(range(number))
