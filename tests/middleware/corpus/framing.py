"""Where does the body end? Each of these must be refused, with a valid key too."""

from __future__ import annotations

from tests.middleware.corpus import SMUGGLED, post

CHUNKS = b"0\r\n\r\n"
LENGTH = b"Content-Length: 5"
CHUNKED = b"Transfer-Encoding: chunked"

FRAMING: dict[str, bytes] = {
    "length before chunks": post(LENGTH, CHUNKED, body=CHUNKS + SMUGGLED),
    "chunks before length": post(CHUNKED, LENGTH, body=CHUNKS + SMUGGLED),
    "length 0 with chunks": post(b"Content-Length: 0", CHUNKED, body=CHUNKS + SMUGGLED),
    "length hides a request": post(
        b"Content-Length: %d" % (len(CHUNKS) + len(SMUGGLED)), CHUNKED, body=CHUNKS + SMUGGLED
    ),
    "two lengths": post(b"Content-Length: 0", LENGTH, body=b"hello" + SMUGGLED),
    "a list of lengths": post(b"Content-Length: 0, 5", body=b"hello" + SMUGGLED),
    "length with a plus": post(b"Content-Length: +5", body=b"hello" + SMUGGLED),
    "negative length": post(b"Content-Length: -5", body=b"hello" + SMUGGLED),
    "length with an underscore": post(b"Content-Length: 1_0", body=b"hello" + SMUGGLED),
    "hexadecimal length": post(b"Content-Length: 0x5", body=b"hello" + SMUGGLED),
    "length with a fraction": post(b"Content-Length: 5.0", body=b"hello" + SMUGGLED),
    "empty length": post(b"Content-Length: ", body=SMUGGLED),
    "a length that overflows": post(b"Content-Length: " + b"9" * 40, body=SMUGGLED),
    "length with a vertical tab": post(b"Content-Length: \x0b5", body=b"hello" + SMUGGLED),
    "underscored length": post(b"Content_Length: 5", body=b"hello" + SMUGGLED),
    "underscored length beside one": post(b"Content_Length: 0", LENGTH, body=b"hello" + SMUGGLED),
    "two encodings": post(CHUNKED, CHUNKED, body=CHUNKS + SMUGGLED),
    "two different encodings": post(
        b"Transfer-Encoding: identity", CHUNKED, body=CHUNKS + SMUGGLED
    ),
    "underscored encoding": post(b"Transfer_Encoding: chunked", LENGTH, body=b"hello" + SMUGGLED),
    "comma before chunked": post(b"Transfer-Encoding: ,chunked", body=CHUNKS + SMUGGLED),
    "identity, chunked": post(b"Transfer-Encoding: identity, chunked", body=CHUNKS + SMUGGLED),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity", body=CHUNKS + SMUGGLED),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=CHUNKS + SMUGGLED),
    "xchunked": post(b"Transfer-Encoding: xchunked", body=CHUNKS + SMUGGLED),
    "identity": post(b"Transfer-Encoding: identity", LENGTH, body=b"hello" + SMUGGLED),
    "quoted chunked": post(b'Transfer-Encoding: "chunked"', body=CHUNKS + SMUGGLED),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;a=b", body=CHUNKS + SMUGGLED),
    "chunked after a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=CHUNKS + SMUGGLED),
    "chunked before a NUL": post(b"Transfer-Encoding: chunked\x00", body=CHUNKS + SMUGGLED),
    "blank before the colon": post(b"Transfer-Encoding : chunked", body=CHUNKS + SMUGGLED),
    "carriage return in the value": post(b"X-A: b\rTransfer-Encoding: chunked", body=SMUGGLED),
    "NUL in the value": post(b"X-A: b\x00c", LENGTH, body=b"hello" + SMUGGLED),
    "a bare line feed": post(
        b"X-A: b\nTransfer-Encoding: chunked", LENGTH, body=b"hello" + SMUGGLED
    ),
    "chunks on HTTP/1.0": post(CHUNKED, body=CHUNKS + SMUGGLED).replace(
        b"HTTP/1.1", b"HTTP/1.0", 1
    ),
    "compressed body": post(b"Content-Encoding: gzip", LENGTH, body=b"\x1f\x8b\x08\x00\x00"),
    "compressed twice": post(b"Content-Encoding: gzip, br", LENGTH, body=b"hello"),
    "bad end of a chunk": post(CHUNKED, body=b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED),
    "chunk size with 0x": post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "chunk size with a sign": post(CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "chunk size that overflows": post(CHUNKED, body=b"1" + b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n"),
    "empty chunk size": post(CHUNKED, body=b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
}
