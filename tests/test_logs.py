from __future__ import annotations

import json
import logging

import pytest

from asgi_llmgate.logs import AccessLogFilter, JsonFormatter, hide_keys_in_access_log


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1beta/models/m:generateContent?key=AIzaSecret", "/v1beta/models/m:generateContent"),
        ("/sk-helicone-abcdefg-1234/v1/models", "/***/v1/models"),
        ("/v1/chat/completions", "/v1/chat/completions"),
    ],
    ids=["query", "key in path", "plain"],
)
def test_the_access_log_shows_no_key(path: str, shown: str) -> None:
    args = ("1.2.3.4:5", "GET", path, "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, "%s", args, None)

    assert AccessLogFilter().filter(record)
    assert record.args == ("1.2.3.4:5", "GET", shown, "1.1", 200)


def test_the_line_about_a_websocket_shows_no_key() -> None:
    text = '%s - "WebSocket %s" [accepted]'
    args = ("1.2.3.4:5", "/v1/realtime?key=AIzaSecret")
    record = logging.LogRecord("uvicorn.error", logging.INFO, "", 0, text, args, None)

    assert AccessLogFilter().filter(record)
    assert record.getMessage() == '1.2.3.4:5 - "WebSocket /v1/realtime" [accepted]'


@pytest.mark.parametrize("name", ["uvicorn.access", "uvicorn.error"])
def test_the_filter_is_installed_once(name: str) -> None:
    hide_keys_in_access_log()
    hide_keys_in_access_log()

    filters = logging.getLogger(name).filters
    assert sum(isinstance(known, AccessLogFilter) for known in filters) == 1


def test_a_json_line_stays_one_line() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "a\nb\x1b[31m\u2028c", (), None)

    line = JsonFormatter().format(record)

    assert "\n" not in line
    assert line.isascii()
    assert json.loads(line)["message"] == "a\nb\x1b[31m\u2028c"
