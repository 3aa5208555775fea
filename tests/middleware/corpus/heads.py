"""Host, methods, repeated and misspelt headers, sizes. Refused, with a valid key too."""

from __future__ import annotations

from tests.middleware.corpus import head

_HOSTS: dict[str, bytes] = {
    "a path and a query": b"gateway.test/healthz?x=",
    "a path": b"gateway.test/healthz",
    "a query": b"gateway.test?x",
    "a fragment": b"gateway.test#",
    "userinfo": b"a@gateway.test",
    "userinfo with a port": b"gateway.test:80@evil.test",
    "two names": b"gateway.test, evil.test",
    "a blank": b"gateway.test evil.test",
    "a tab": b"gateway.test\tevil.test",
    "no name": b"",
    "a port only": b":80",
    "an empty port": b"gateway.test:",
    "two ports": b"gateway.test:80:81",
    "a port that is no number": b"gateway.test:8o",
    "a port out of range": b"gateway.test:70000",
    "a negative port": b"gateway.test:-1",
    "a scheme": b"http://gateway.test",
    "a backslash": b"gateway.test\\evil.test",
    "percent": b"gateway%2etest",
    "IPv6 without brackets": b"::1",
    "IPv6 half in brackets": b"[::1",
    "IPv6 with a tail": b"[::1]evil.test",
    "an alphabet of its own": "gatewäy.test".encode(),
    "a semicolon": b"gateway.test;x",
    "a quote": b'gateway.test"',
}
HOSTS: dict[str, bytes] = {
    f"Host with {name}": head(b"/healthz", host=b"Host: " + host) for name, host in _HOSTS.items()
} | {
    "no Host": b"GET /healthz HTTP/1.1\r\n{auth}Connection: close\r\n\r\n",
    "no Host on HTTP/1.0": b"GET /healthz HTTP/1.0\r\n{auth}\r\n",
    "two Hosts": head(b"/healthz", b"Host: evil.test"),
    "two equal Hosts": head(b"/healthz", b"Host: gateway.test"),
    "Host in another case": head(b"/healthz", b"hOST: evil.test"),
}

METHODS: dict[str, bytes] = {
    f"method {method.decode()}": head(method=method)
    for method in (
        *(b"get", b"Get", b"TRACE", b"TRACK", b"CONNECT", b"PROPFIND", b"DEBUG", b"PURGE"),
        *(b"_HELPER", b"__CLASS__", b"POST:", b"GE\tT", b"SOURCE", b"M-SEARCH"),
    )
}

MORE = b"X-%03d: a"

HEADERS: dict[str, bytes] = {
    "two authorizations": head(b"/v1/models", b"Authorization: Bearer a", b"Authorization: b"),
    "two equal x-api-keys": head(b"/v1/models", b"x-api-key: a", b"X-API-Key: a"),
    "two LLMGate-Auths": head(b"/v1/models", b"LLMGate-Auth: a", b"llmgate-auth: b"),
    "two Helicone-Auths": head(b"/v1/models", b"Helicone-Auth: a", b"Helicone-Auth: b"),
    "two providers": head(b"/v1/models", b"LLMGate-Provider: a", b"LLMGate-Provider: b"),
    "underscored authorization": head(b"/v1/models", b"LLMGate_Auth: a"),
    "underscored api key": head(b"/v1/models", b"X_API_Key: a"),
    "half underscored api key": head(b"/v1/models", b"X-API_Key: a"),
    "underscored forwarding": head(b"/v1/models", b"X_Forwarded_For: 127.0.0.1"),
    "underscored user": head(b"/v1/models", b"Helicone_User_Id: admin"),
    "underscored origin": head(b"/v1/models", b"Sec_Fetch_Site: same-origin"),
    "underscored rewrite": head(b"/healthz", b"X_Original_URL: /v1/models"),
    "101 headers": head(b"/v1/models", *(MORE % number for number in range(100))),
    "1000 headers": head(b"/v1/models", *(MORE % number for number in range(1000))),
    "headers of 33 KiB": head(b"/v1/models", *(MORE % n + b"a" * 1024 for n in range(33))),
    "one header of 33 KiB": head(b"/v1/models", b"X-A: " + b"a" * 33 * 1024),
    "an escape sequence": head(b"/v1/models", b"X-A: \x1b[2J"),
    "a blank in a name": head(b"/v1/models", b"X A: b"),
    "no name": head(b"/v1/models", b": b"),
    "no colon": head(b"/v1/models", b"X-A"),
    "a name of another alphabet": head(b"/v1/models", "X-Ä: b".encode()),
}

HEADS: dict[str, bytes] = HOSTS | METHODS | HEADERS
