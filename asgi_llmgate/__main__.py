"""`llmgate`, also as `python -m asgi_llmgate`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command, or say which extra it needs: a base install has middlewares only."""
    try:
        from asgi_llmgate.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("asgi_llmgate"):
            raise
        sys.exit(
            f"llmgate needs {error.name}, which is not installed.\n"
            'HINT: run `pip install "asgi-llmgate[standalone]"`.'
        )
    run()


if __name__ == "__main__":
    main()
