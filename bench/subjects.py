"""Whom we measure: how each is installed, started and called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.payloads import MODEL

__all__ = [
    "GATEWAY_KEY",
    "LITELLM",
    "PROVIDER_KEY",
    "SUBJECTS",
    "Launch",
    "Subject",
    "cache_folder",
]

# Pinned: figures are of these. LiteLLM 1.82.7, 1.82.8 and 1.107.0 were malicious uploads.
LITELLM = "1.106.2"
PORTKEY = "1.15.2"
# From 1.14.3 on every stream of this Portkey is a 500 (Portkey-AI/gateway#1389).
HONO_NODE_SERVER = "1.14.1"

GATEWAY_KEY = "lg_bench_0123456789abcdef0123456789abcdef"
PROVIDER_KEY = "sk-bench-0123456789abcdef"
ROOT = Path(__file__).resolve().parent.parent

_UVICORN = [
    *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--http", "httptools"),
    *("--loop", "uvloop", "--no-access-log", "--log-level", "warning"),
]


@dataclass(frozen=True, slots=True)
class Launch:
    """A command to run, with what it needs in its environment."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """One row of the table.

    Args:
        name: As `--only` takes it.
        title: As the table shows it.
        launch: Given the port to listen on, the provider's `http://host:port` and an empty
            folder of its own, returns how it is started.
        headers: Given the provider's address, what a caller sends beside the content type.
        install: Makes what it needs in the cache folder; None if it needs nothing.
        relays: It has streams to relay.
    """

    name: str
    title: str
    launch: Callable[[int, str, Path], Launch]
    headers: Callable[[str], Mapping[str, str]]
    install: Callable[[], None] | None = None
    relays: bool = True


def cache_folder() -> Path:
    """Return where other gateways are installed, outside of the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "llmgate-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def with_provider_key(_: str) -> Mapping[str, str]:
    return {"content-type": "application/json", "authorization": f"Bearer {PROVIDER_KEY}"}


def with_gateway_key(_: str) -> Mapping[str, str]:
    return {"content-type": "application/json", "authorization": f"Bearer {GATEWAY_KEY}"}


def nginx(port: int, _: str, folder: Path) -> Launch:
    """Start nginx with the fixed answer; also the provider of all others."""
    from bench.payloads import ANSWER

    config = folder / "nginx.conf"
    config.write_text(
        f"""daemon off; master_process off; worker_processes 1;
pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_timeout 1h; keepalive_requests 1000000000;
  default_type application/json;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{ANSWER.decode()}'; }} }}
}}
"""
    )
    return Launch([shutil.which("nginx") or "nginx", "-p", str(folder), "-c", str(config)])


def hello(port: int, _: str, folder: Path) -> Launch:
    argv = [*_UVICORN, "--lifespan", "off", "--port", str(port), "bench.hello:app"]
    return Launch(argv, {"PYTHONPATH": str(ROOT)})


def relay(port: int, provider: str, folder: Path) -> Launch:
    argv = [*_UVICORN, "--lifespan", "off", "--port", str(port), "bench.relay:app"]
    return Launch(argv, {"PYTHONPATH": str(ROOT), "BENCH_UPSTREAM": provider})


def gateway_slice(port: int, provider: str, folder: Path) -> Launch:
    argv = [*_UVICORN, "--port", str(port), "bench.stacks:slice_app"]
    return Launch(argv, {"PYTHONPATH": str(ROOT), **_gateway_env(provider, folder)})


def gateway(port: int, provider: str, folder: Path) -> Launch:
    argv = [*_UVICORN, "--port", str(port), "asgi_llmgate:app"]
    return Launch(argv, {"PYTHONPATH": str(ROOT), **_gateway_env(provider, folder)})


def _gateway_env(provider: str, folder: Path) -> dict[str, str]:
    return {
        "LLMGATE_PROVIDERS__OPENAI__BASE_URL": f"{provider}/v1",
        "LLMGATE_PROVIDERS__OPENAI__API_KEY": PROVIDER_KEY,
        "LLMGATE_KEYS": f"bench:{GATEWAY_KEY}",
        "LLMGATE_DATA_DIR": str(folder / "state"),
    }


def litellm(port: int, provider: str, folder: Path) -> Launch:
    """Start LiteLLM with a master key and nothing else: no database, no callbacks."""
    config = folder / "litellm.yaml"
    config.write_text(
        f"""model_list:
  - model_name: {MODEL}
    litellm_params: {{model: openai/{MODEL}, api_base: {provider}/v1, api_key: {PROVIDER_KEY}}}
litellm_settings: {{telemetry: false, num_retries: 0}}
general_settings: {{master_key: {GATEWAY_KEY}}}
"""
    )
    program = cache_folder() / f"litellm-{LITELLM}" / "bin" / "litellm"
    argv = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    # From GitHub otherwise, at import.
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": ""}
    return Launch([*argv, "--num_workers", "1"], env)


def install_litellm() -> None:
    folder = cache_folder() / f"litellm-{LITELLM}"
    done = folder / ".proxy-is-installed"
    if not done.exists():
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run(*pip, f"litellm[proxy]=={LITELLM}")
        done.touch()


def portkey(port: int, _: str, folder: Path) -> Launch:
    program = _portkey_folder() / "node_modules" / "@portkey-ai" / "gateway" / "build"
    argv = ["node", str(program / "start-server.js"), f"--port={port}", "--headless"]
    return Launch(argv, {"NODE_ENV": "production"})


def for_portkey(provider: str) -> Mapping[str, str]:
    return {
        **with_provider_key(provider),
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{provider}/v1",
    }


def install_portkey() -> None:
    folder = _portkey_folder()
    if not (folder / "node_modules" / "@portkey-ai" / "gateway").exists():
        folder.mkdir(exist_ok=True)
        (folder / "package.json").write_text(
            f"""{{"private": true, "dependencies": {{"@portkey-ai/gateway": "{PORTKEY}"}},
"overrides": {{"@hono/node-server": "{HONO_NODE_SERVER}"}}}}"""
        )
        npm = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
        _run(*npm, cwd=folder)


def _portkey_folder() -> Path:
    return cache_folder() / f"portkey-{PORTKEY}"


def _run(*argv: str, cwd: Path | None = None) -> None:
    print("installing:", " ".join(argv), file=sys.stderr)
    subprocess.run(argv, check=True, cwd=cwd, stdout=sys.stderr, timeout=600)


SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject("direct", "nginx, no gateway", nginx, with_provider_key, relays=False),
        Subject("hello", "uvicorn answering by itself", hello, with_provider_key, relays=False),
        Subject("relay", "bare relay (pyreqwest)", relay, with_provider_key),
        Subject(
            "slice",
            "asgi_llmgate: hygiene, logging, dispatch, upstream",
            gateway_slice,
            with_provider_key,
        ),
        Subject("gateway", "asgi_llmgate: default app, with auth", gateway, with_gateway_key),
        Subject("portkey", f"Portkey gateway {PORTKEY}", portkey, for_portkey, install_portkey),
        Subject("litellm", f"LiteLLM proxy {LITELLM}", litellm, with_gateway_key, install_litellm),
    )
}
