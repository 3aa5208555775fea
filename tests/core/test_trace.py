from __future__ import annotations

import pytest

from asgi_llmgate.core.trace import DEFAULT_BAGGAGE, Trace, read_trace

ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"00-{ID}-b7ad6b7169203331-01", ID),
        (f"cc-{ID}-b7ad6b7169203331-01-what-the-future-will-be", ID),
        (f"ff-{ID}-b7ad6b7169203331-01", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-{ID}-{'0' * 16}-01", None),
        (f"00-{ID.upper()}-b7ad6b7169203331-01", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_trace_id_is_read(value: str, expected: str | None) -> None:
    trace = read_trace({b"traceparent": value.encode()}, ())

    assert trace == Trace(expected)


def test_known_names_in_the_baggage_become_properties() -> None:
    baggage = (
        b"service.name=shop%20api;x=1, session.id = s-1 ,llmgate.Feature=checkout,"
        b"user.email=ada@example.com,other=1,service.version=%0d%0a"
    )
    trace = read_trace({b"baggage": baggage}, DEFAULT_BAGGAGE)

    assert trace == Trace(None, "s-1", {"service.name": "shop api", "feature": "checkout"})


def test_baggage_is_bounded_in_number_and_size() -> None:
    many = ",".join(f"llmgate.p{number}=1" for number in range(100)).encode()
    few = read_trace({b"baggage": many}, ())
    huge = read_trace({b"baggage": b"llmgate.x=" + b"y" * 10_000}, ())
    long = read_trace({b"baggage": b"llmgate.x=" + b"y" * 300}, ())

    assert few is not None
    assert len(few.properties) == 16
    assert huge == long == Trace()


def test_without_either_header_there_is_no_trace() -> None:
    assert read_trace({b"host": b"x"}, ()) is None
