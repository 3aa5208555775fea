"""Compare our requests with litellm's, field by field.

    python -m bench.differential [--python …/bin/python]

Makes a virtual environment for litellm under the user's cache unless one is given. Not a test: two
translations may differ and both be right. The verdicts are in `verdicts.toml`; a difference without
one makes this exit with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from asgi_llmgate.errors import TranslationError
from asgi_llmgate.providers.capabilities import capabilities_of
from asgi_llmgate.providers.inner import TargetInfo
from asgi_llmgate.providers.translate import Translation
from tests.providers.matrix_page import FEATURES, MODELS, PLAIN

HERE = Path(__file__).parent
LITELLM = "litellm==1.106.2"
TARGETS = ("anthropic-messages", "gemini", "bedrock-converse", "cohere-v2")


def environment() -> Path:
    """Return the Python of an environment that has litellm; made once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    # Not the environment of the benchmark, which has the proxy's dependencies, too.
    folder = cache / "llmgate-bench" / f"differential-{LITELLM.replace('==', '-')}"
    python = folder / "bin" / "python"
    if not (folder / ".done").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", LITELLM], check=True)
        (folder / ".done").touch()
    return python


def cases() -> list[dict[str, Any]]:
    plain = PLAIN["openai-chat"]
    system = {"messages": [{"role": "system", "content": "Be brief."}, *plain["messages"]]}
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"city": "Paris"}'},
    }
    turns = {
        "messages": [
            *plain["messages"],
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        **FEATURES["openai-chat"]["tools"],
    }
    features = {"plain": {}, "system": system, "tool turns": turns, **FEATURES["openai-chat"]}
    return [
        {
            "target": target,
            "feature": feature,
            "model": MODELS[target][1],
            "body": {"model": "m", **plain, **fields},
        }
        for target in TARGETS
        for feature, fields in features.items()
    ]


def ours(case: dict[str, Any]) -> Any:
    provider, model = MODELS[case["target"]]
    to = TargetInfo(model, provider, capabilities_of(model))
    translation = Translation("openai-chat", case["target"], call_id="0198-aa", created=1)
    try:
        return translation.request(case["body"], to, model="m").body
    except TranslationError as error:
        return {"error": str(error)}


def plain(value: Any) -> Any:
    """Return a body without what says nothing: nulls, empty objects and lists, `stream: false`."""
    if isinstance(value, dict):
        kept = {name: plain(each) for name, each in value.items() if name != "stream" or each}
        return {name: each for name, each in kept.items() if each not in (None, {}, [])}
    return [plain(each) for each in value] if isinstance(value, list) else value


def camel(value: Any) -> Any:
    """Return a body in the spelling of Gemini's documentation; the API reads both."""
    if isinstance(value, dict):
        return {re.sub("_([a-z])", lambda m: m[1].upper(), k): camel(v) for k, v in value.items()}
    return [camel(each) for each in value] if isinstance(value, list) else value


def differences(mine: Any, other: Any, at: str = "") -> list[tuple[str, Any, Any]]:
    """Return where two bodies differ: a path, our value, theirs; `...` stands for nothing."""
    if isinstance(mine, dict) and isinstance(other, dict):
        found = []
        for name in sorted(mine.keys() | other.keys()):
            found += differences(
                mine.get(name, ...), other.get(name, ...), f"{at}.{name}".lstrip(".")
            )
        return found
    if isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        return [
            each
            for index, (a, b) in enumerate(zip(mine, other, strict=True))
            for each in differences(a, b, f"{at}[{index}]")
        ]
    return [] if mine == other else [(at, mine, other)]


def shown(value: Any) -> str:
    return "nothing" if value is ... else json.dumps(value, ensure_ascii=False)[:160]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="of an environment with litellm")
    python = parser.parse_args().python or environment()
    asked = cases()
    done = subprocess.run(
        [str(python), str(HERE / "theirs.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    verdicts = tomllib.loads((HERE / "verdicts.toml").read_text())
    same = unjudged = 0
    for case, other in zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True):
        target = case["target"]
        mine, other = plain(ours(case)), plain(camel(other) if target == "gemini" else other)
        if "error" in mine or "error" in other:
            found = [] if "error" in mine and "error" in other else [("", mine, other)]
        else:
            found = differences(mine, other)
        same += not found
        for at, mine, theirs in found:
            verdict = judged(verdicts.get(target, {}), case["feature"], at)
            unjudged += verdict is None
            print(f"{target} · {case['feature']} · {at}: ours {shown(mine)}")
            print(f"    theirs {shown(theirs)}\n    {verdict or 'NOT JUDGED'}")
    print(f"{same} of {len(asked)} requests are the same; {unjudged} differences are not judged")
    return 1 if unjudged else 0


def judged(verdicts: dict[str, str], feature: str, at: str) -> str | None:
    """Return the verdict for a difference: that of the feature and field, else of the field."""
    for key in (f"{feature}: {at}", f"{feature}:", at):
        if key in verdicts:
            return verdicts[key]
    return None


if __name__ == "__main__":
    sys.exit(main())
