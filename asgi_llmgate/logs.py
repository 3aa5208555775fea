"""The gateway's own log lines, as text or as JSON, and an access log that shows no keys."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

__all__ = ["AccessLogFilter", "configure_logging", "hide_keys_in_access_log"]

# What looks like a key in a path: `/sk-helicone-…/v1`, `/lg_…/v1`.
KEY_IN_PATH = re.compile(r"/(?:lg_[^/?#\s]+|(?:[sprg]k|gsk|AIza)[-_][^/?#\s]{8,})")


class AccessLogFilter(logging.Filter):
    """Cut queries and keys off the paths that uvicorn logs: `?key=` is a credential."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                KEY_IN_PATH.sub("/***", arg.partition("?")[0])
                if isinstance(arg, str) and arg.startswith("/")
                else arg
                for arg in record.args
            )
        return True


def hide_keys_in_access_log() -> None:
    """Install the filter, once per process."""
    # WebSockets are announced by the other one.
    for name in ("uvicorn.access", "uvicorn.error"):
        log = logging.getLogger(name)
        if not any(isinstance(known, AccessLogFilter) for known in log.filters):
            log.addFilter(AccessLogFilter())


class JsonFormatter(logging.Formatter):
    """One object per line, built from these fields only."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", None),
        }
        if record.exc_info is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def configure_logging(style: str, level: str) -> None:
    """Show the gateway's own lines on stderr, unless the application has set logging up itself."""
    logger = logging.getLogger("asgi_llmgate")
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s:     %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
