"""Plain requests: 200 with a valid key, 401 without."""

from __future__ import annotations

from tests.middleware.corpus import head, post

FINE: dict[str, bytes] = {
    "a list": head(),
    "a call": post(b"Content-Length: 2", b"Connection: close", body=b"{}"),
    "chunks": post(
        b"Transfer-Encoding: chunked", b"Connection: close", body=b"2\r\n{}\r\n0\r\n\r\n"
    ),
    "chunks with an extension": post(
        b"Transfer-Encoding: Chunked", b"Connection: close", body=b"2;a=b\r\n{}\r\n0\r\n\r\n"
    ),
    "a port in Host": head(host=b"Host: 127.0.0.1:8000"),
    "IPv6 in Host": head(host=b"Host: [::1]:8000"),
    "an id with a slash": head(b"/v1/models/meta-llama%2FLlama-3"),
    "an ARN": head(
        b"/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fx/converse",
        method=b"POST",
    ),
    "a slash below a provider": head(b"/providers/together/v1/models/a%2Fb"),
    "a model with a verb": head(b"/v1beta/models/gemini-3:countTokens", method=b"POST"),
    "a query": head(b"/v1/models?limit=2&after=a%2Fb"),
    "a dot in an id": head(b"/v1/models/gpt-4.1"),
    "an old Codex": head(b"/v1/models", b"session_id: 0199", b"conversation_id: 0199"),
    "a property with an underscore": head(b"/v1/models", b"Helicone-Property-user_tier: a"),
    "98 more headers": head(b"/v1/models", *(b"X-%03d: a" % number for number in range(97))),
    "repeated cookies": head(b"/v1/models", b"Cookie: a=1", b"Cookie: b=2"),
    "another alphabet in a value": head(b"/v1/models", "X-Title: Käse".encode()),
    "HEAD": head(method=b"HEAD"),
    "DELETE": head(b"/v1/files/file-1", method=b"DELETE"),
}
