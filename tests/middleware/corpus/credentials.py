"""Everything that is nearly a key. None may open anything."""

from __future__ import annotations

import base64

from tests.middleware.corpus import KEY, head

_LINES: dict[str, bytes] = {
    "nothing": b"X-A: b",
    "empty authorization": b"Authorization: ",
    "bearer without a key": b"Authorization: Bearer ",
    "null": b"Authorization: Bearer null",
    "None": b"Authorization: Bearer None",
    "a provider's key": b"Authorization: Bearer sk-proj-0123456789abcdef",
    "an unknown gateway key": b"Authorization: Bearer lg_test_" + b"0" * 46,
    "the prefix alone": b"Authorization: Bearer lg_",
    "the name of the key": b"Authorization: Bearer acme",
    "the key but its end": b"Authorization: Bearer " + KEY[:-1].encode(),
    "the key and more": b"Authorization: Bearer " + KEY.encode() + b"x",
    "the key in capitals": b"Authorization: Bearer " + KEY.upper().encode(),
    "the key in quotes": b'Authorization: Bearer "' + KEY.encode() + b'"',
    "the key and a comma": b"Authorization: Bearer " + KEY.encode() + b",x",
    "the key and another": b"Authorization: Bearer x, Bearer " + KEY.encode(),
    "the key as basic": b"Authorization: Basic " + base64.b64encode(b"acme:" + KEY.encode()),
    "the key as another scheme": b"Authorization: Token " + KEY.encode(),
    "the key of a percent": b"Authorization: Bearer " + KEY.replace("_", "%5f").encode(),
    "the key with a NUL": b"Authorization: Bearer " + KEY.encode() + b"\x00",
    "the key of another width": "Authorization: Bearer \uff4cg_".encode() + KEY[3:].encode(),
    "the key in a cookie": b"Cookie: Authorization=" + KEY.encode() + b"; key=" + KEY.encode(),
    "the key in proxy-authorization": b"Proxy-Authorization: Bearer " + KEY.encode(),
    "the key in x-forwarded-authorization": b"X-Forwarded-Authorization: Bearer " + KEY.encode(),
    "a user from a proxy": b"X-Remote-User: acme",
    "an address of one's own": b"X-Forwarded-For: 127.0.0.1",
    "an unknown LLMGate-Auth": b"LLMGate-Auth: Bearer x",
    "an empty LLMGate-Auth": b"LLMGate-Auth: ",
    "an unknown Helicone-Auth": b"Helicone-Auth: Bearer sk-helicone-abc",
    "an empty Helicone-Auth": b"Helicone-Auth: Bearer ",
    "a Helicone session": b"Helicone-Jwt: eyJh.eyJz.x\r\nHelicone-Org-Id: acme",
    "an unknown x-api-key": b"x-api-key: lg_unknown",
    "an unknown api-key": b"api-key: x",
    "an unknown x-goog-api-key": b"x-goog-api-key: x",
    "a JSON Web Token without a signature": b"Authorization: Bearer eyJhbGciOiJub25lIn0.e30.",
    "a long key": b"Authorization: Bearer lg_" + b"a" * 8000,
    "SQL": b"Authorization: Bearer '/**/OR/**/1=1--",
    "a template": b"Authorization: Bearer {{7*7}}${7*7}",
    "a right key behind a wrong one": b"LLMGate-Auth: x\r\nx-api-key: " + KEY.encode(),
    "a right key beside a wrong one": b"x-api-key: lg_x\r\nAuthorization: Bearer " + KEY.encode(),
    "a right Helicone key behind a wrong one": b"LLMGate-Auth: x\r\nHelicone-Auth: " + KEY.encode(),
}

CREDENTIALS: dict[str, bytes] = {
    name: head(b"/v1/models", line) for name, line in _LINES.items()
} | {
    "the key in the query": head(b"/v1/models?key=" + KEY.encode()),
    "the key in the path": head(b"/" + KEY.encode() + b"/v1/models"),
    "a public path in the query": head(b"/v1/models?/healthz"),
    "a public path as a suffix": head(b"/v1/models/healthz"),
    "a public path as a prefix": head(b"/healthz/v1/models"),
    "a public path with a slash": head(b"/healthz/"),
    "a public path in capitals": head(b"/HEALTHZ"),
}
