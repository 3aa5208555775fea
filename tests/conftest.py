"""What every test may use: the event loop, and how a test says what it needs.

An absent program or service skips with a reason. With `LLMGATE_TEST_NO_SKIP=1`, as in CI, such a
skip is a failure, because there everything is installed and a skip would hide a broken install.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ("tests.servers", "tests.postgres")

# Machines are shared, so how long one example took says nothing; a limit would only be flaky.
settings.register_profile("llmgate", deadline=None)
settings.load_profile("llmgate")

ROOT = Path(__file__).parent.parent
DATA = ROOT / ".." / "shared" / "data"
"""Recorded traffic that is not part of the repository; absent on most machines."""

NO_SKIP = os.environ.get("LLMGATE_TEST_NO_SKIP") == "1"
# What CI cannot install: a skip whose reason names one of these is always allowed.
MAY_SKIP = ("shared/data", "LLMGATE_TEST_REDIS_SEARCH_URL")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def requires(*programs: str) -> pytest.MarkDecorator:
    """Skip a test, class or module (`pytestmark`) where one of `programs` is not on the PATH."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def requires_data(path: str) -> pytest.MarkDecorator:
    """Skip where `../shared/data/<path>` is absent; allowed to skip in CI, too."""
    return pytest.mark.skipif(not (DATA / path).exists(), reason=f"no ../shared/data/{path}")


def forbidden_skip(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Return the reason of a skip that must not happen here, else None."""
    if not (NO_SKIP and report.skipped) or hasattr(report, "wasxfail"):
        return None
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return None if any(allowed in reason for allowed in MAY_SKIP) else reason


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (reason := forbidden_skip(report)) is not None:
        report.outcome = "failed"
        report.longrepr = f"LLMGATE_TEST_NO_SKIP=1 forbids this skip: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if (reason := forbidden_skip(report)) is not None:
        report.outcome = "failed"
        report.longrepr = f"LLMGATE_TEST_NO_SKIP=1 forbids this skip: {reason}"
    return report
