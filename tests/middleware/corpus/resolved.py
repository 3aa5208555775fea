"""Requests that some servers rewrite to one reading before an application sees them.

RFC 9112 lets them: absolute targets, folded lines, a length that is repeated but the same. Such a
request must be refused, or arrive once and read that one way; without a key it never passes.
"""

from __future__ import annotations

from tests.middleware.corpus import head, post

RESOLVED: dict[str, bytes] = {
    "absolute form": head(b"http://gateway.test/v1/models"),
    "absolute form of another host": head(b"http://evil.test/v1/models"),
    "absolute form with userinfo": head(b"http://a@evil.test/v1/models"),
    "absolute form of https": head(b"https://evil.test:443/v1/models"),
    "fragment": head(b"/v1/models#/healthz"),
    "fragment before a query": head(b"/v1/models#?/healthz"),
    "folded header": head(b"/v1/models", b"X-A: b\r\n c"),
    "folded authorization": head(b"/v1/models", b"X-A: b\r\n\tAuthorization: Bearer x"),
    "blank before a name": post(
        b" Transfer-Encoding: chunked", b"Content-Length: 5", body=b"hello"
    ),
    "two equal lengths": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "a list of equal lengths": post(b"Content-Length: 5, 5", body=b"hello"),
}
