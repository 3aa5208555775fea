"""`llmgate cache`, on the stores of a data folder."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asgi_llmgate.assemble import cache_secret_of, cache_store_of
from asgi_llmgate.backends.journal import JournalLogSink
from asgi_llmgate.cli import cli
from asgi_llmgate.core.cache_key import CacheKey, partition
from asgi_llmgate.core.semantic.alias import Alias
from asgi_llmgate.core.semantic.codec import encode_label
from asgi_llmgate.core.semantic.features import MADE_OF
from asgi_llmgate.core.semantic.label import Label, Source
from asgi_llmgate.core.semantic.served import Served, encode_served, place_of, served_key
from asgi_llmgate.semantic_cache import label_store_of, vector_index_of
from asgi_llmgate.settings import load_settings
from asgi_llmgate.types import CallRecord
from tests.backends.records import PLAIN
from tests.semantic.world import WordEmbedder

SCOPE, ANSWER, ALIAS = "a" * 64, CacheKey("b" * 64), "c" * 32
FEATURES = (1.0, *(0.5,) * (MADE_OF - 1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMGATE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def learned(folder: Path) -> Path:
    """A folder with one phrasing of tenant acme, three verdicts, and a call that was served."""
    settings = load_settings()
    secret = cache_secret_of(settings)
    own = partition(secret, "own:acme")
    now_us = time.time_ns() // 1000

    async def fill() -> None:
        index, labels, store = (
            vector_index_of(settings),
            label_store_of(settings),
            cache_store_of(settings),
        )
        text = "when\x1b[31m does it open"
        alias = Alias(ALIAS, ANSWER, text, own, "d" * 16, now_us, now_us + 3_600_000_000)
        await index.add(SCOPE, alias, await WordEmbedder().embed(text))
        found = [(True, 0.97), (True, 0.91), (False, 0.88)]
        await labels.append(
            own,
            [
                encode_label(Label(FEATURES, right, 1.0, Source.MISS, ALIAS, ANSWER, at, now_us))
                for right, at in found
            ],
        )
        served = Served("acme", own, SCOPE, ALIAS, ANSWER, FEATURES, 0.9, 0.1)
        key = served_key(secret, "call-1")
        note = encode_served(secret, key, served, now_us=now_us)
        await store.write(key, place_of("acme"), note, partition=own, ttl_s=3600)
        for opened in (index, labels, store):
            await opened.aclose()

    asyncio.run(fill())
    return folder


def llmgate(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["cache", *arguments], input=stdin)


def told(*arguments: str, stdin: str | None = None) -> Any:
    result = llmgate(*arguments, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_stats_of_an_empty_folder_are_noughts(folder: Path) -> None:
    found = told("stats")
    text = llmgate("stats").output

    assert found["hits"] == {"exact": 0, "semantic": 0}
    assert found["semantic"]["aliases"] == found["semantic"]["labels"] == 0
    assert found["saved_usd"] == "0"
    assert "0 exact, 0 semantic" in text


def test_phrasings_are_listed_and_no_control_reaches_the_terminal(learned: Path) -> None:
    [row] = told("aliases")["aliases"]
    text = llmgate("aliases").output

    assert row["question"] == "when\x1b[31m does it open"
    assert "\x1b" not in text
    assert r"when\x1b[31m does it open" in text
    assert told("aliases", "--namespace", "other")["aliases"] == []


def test_entries_whose_answer_is_gone_say_so(learned: Path) -> None:
    [row] = told("entries")["entries"]

    assert row["stored"] is False
    assert row["aliases"] == 1
    assert "gone" in llmgate("entries").output


def test_what_was_learned_is_shown(learned: Path) -> None:
    [row] = told("learned", "show", "--namespace", "acme")["partitions"]
    text = llmgate("learned", "show").output

    assert row["labels"] == {
        "total": 3,
        "right": 2,
        "wrong": 1,
        "by_source": {"miss": {"right": 2, "wrong": 1}},
    }
    assert [(cell["from"], cell["right"], cell["wrong"]) for cell in row["histogram"]] == [
        (0.85, 0, 1),
        (0.9, 1, 0),
        (0.95, 1, 0),
    ]
    assert "cold: 3 of 100 labels" in text
    assert "3 labels, 2 right and 1 wrong" in text


def test_what_was_learned_is_exported_and_forgotten(learned: Path) -> None:
    [exported] = json.loads(llmgate("learned", "export", "--namespace", "acme").stdout)[
        "partitions"
    ]
    refused = llmgate("learned", "reset")
    forgotten = told("learned", "reset", "--namespace", "acme")

    assert [label["is_right"] for label in exported["verdicts"]] == [True, True, False]
    assert refused.exit_code == 1
    assert forgotten == {"reset": True, "partitions": 1}
    assert told("learned", "show")["partitions"] == []
    assert "Nothing was learned yet" in llmgate("learned", "show").output


def test_feedback_counts_once_and_takes_the_phrasing_back(learned: Path) -> None:
    first = told("feedback", "call-1", "--wrong")
    again = told("feedback", "call-1", "--wrong")
    unknown = llmgate("feedback", "call-2", "--right")

    assert first == {"id": "call-1", "wrong": True, "counted": True, "quarantined": True}
    assert again["counted"] is False
    assert told("aliases")["aliases"] == []
    assert told("learned", "show")["partitions"][0]["labels"]["wrong"] == 2
    assert unknown.exit_code == 1
    assert "no semantic hit 'call-2'" in unknown.output


def test_a_purge_takes_phrasings_with_it(learned: Path) -> None:
    assert told("purge", "--namespace", "other") == {"purged": True, "removed": None}
    assert len(told("aliases")["aliases"]) == 1
    told("purge", "--namespace", "acme")

    assert told("aliases")["aliases"] == []


@pytest.mark.parametrize("command", ["aliases", "entries"])
def test_without_a_semantic_cache_a_command_says_why(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMGATE_CACHE__MODE", "exact")
    result = llmgate(command)

    assert result.exit_code == 1
    assert "cache.mode is exact" in result.output


def doctor() -> dict[str, tuple[str, str]]:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    return {each["name"]: (each["state"], each["detail"]) for each in json.loads(result.stdout)}


def test_the_doctor_loads_the_embedder_and_says_what_was_learned(learned: Path) -> None:
    told = doctor()

    assert told["embedder"][0] == "ok"
    assert "loaded in" in told["embedder"][1]
    assert told["phrasings"] == ("ok", "embedded index in the data folder; 1 in 1 scopes")
    assert told["semantic cache"][0] == "ok"
    assert "serves nothing yet: 3 labels; cold: 3 of 100" in told["semantic cache"][1]


@pytest.mark.parametrize(
    ("variables", "state", "said"),
    [
        ({"MODE": "exact"}, "ok", "off: cache.mode is exact"),
        ({"SEMANTIC__OBSERVE": "true"}, "ok", "observes only"),
        ({"MODE": "threshold", "SEMANTIC__THRESHOLD": "0.9"}, "warn", "no bound on wrong"),
    ],
    ids=str,
)
def test_the_doctor_tells_the_mode(
    learned: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    state: str,
    said: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"LLMGATE_CACHE__{name}", value)
    told = doctor()["semantic cache"]

    assert told[0] == state
    assert said in told[1]


def test_the_doctor_makes_no_folder(folder: Path) -> None:
    assert doctor()["phrasings"][1].startswith("none yet")


# --- simulate


def lines(count: int = 60) -> list[dict[str, Any]]:
    topics = {"opening": "We open at nine.", "refund": "Refunds take a week."}
    return [
        {"question": f"tell me about {topic}, person {number}", "answer": answer, "cost_usd": "0.1"}
        for number in range(count // 2)
        for topic, answer in topics.items()
    ]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_questions_and_answers_are_gone_through(folder: Path, tmp_path: Path) -> None:
    rows = [*lines(), *lines(2), "no json", {"question": "", "answer": "x"}]
    found = told("simulate", write(tmp_path / "a.jsonl", rows), "--max-error", "0.02", "0.05")

    assert found["calls"] == 62
    assert found["left_out"] == {"no JSON": 1, "empty": 1}
    by_name = {row["policy"]: row for row in found["policies"]}
    assert list(by_name) == [
        "exact",
        "cosine 0.85",
        "cosine 0.90",
        "cosine 0.95",
        "bound 0.02",
        "bound 0.05",
    ]
    assert by_name["exact"]["hits"] == 2
    assert by_name["exact"]["saved_usd"] == "0.2"
    assert by_name["cosine 0.85"]["semantic"] >= by_name["cosine 0.95"]["semantic"]
    # Too few labels: the bound is not known to hold yet.
    assert by_name["bound 0.02"]["semantic"] == 0


def test_the_table_says_that_it_is_an_estimate(folder: Path, tmp_path: Path) -> None:
    result = llmgate("simulate", write(tmp_path / "a.jsonl", lines(6)))

    assert result.exit_code == 0
    assert "Wrong is an estimate" in result.output
    assert result.stdout.startswith("POLICY")


def test_standard_input_is_read(folder: Path) -> None:
    rows = "\n".join(json.dumps(row) for row in lines(4))

    assert told("simulate", "-", "--max-error", "0.02", stdin=rows)["calls"] == 4


def chat(question: str, answer: str) -> tuple[bytes, bytes]:
    request = {"model": "gpt-4o", "messages": [{"role": "user", "content": question}]}
    choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    return json.dumps(request).encode(), json.dumps({"choices": [{"index": 0, **choice}]}).encode()


def record(number: int, **changes: Any) -> CallRecord:
    request, response = chat(f"when do you open, {number}", "At nine.")
    return PLAIN._replace(
        id=f"call-{number}",
        tenant="acme",
        format="openai-chat",
        status=200,
        complete=True,
        started_at_us=time.time_ns() // 1000,
        cost_nanousd=1_000_000,
        request_body=request,
        response_body=response,
        request_truncated=False,
        response_truncated=False,
        **changes,
    )


def log(folder: Path, records: list[CallRecord]) -> None:
    journal = JournalLogSink(folder)
    for each in records:
        journal.write(each)
    journal.close()


def test_the_journal_is_gone_through(folder: Path) -> None:
    log(folder, [record(number) for number in (1, 2, 2, 3)] + [record(9)._replace(status=500)])
    found = told("simulate", "--journal")

    assert found["calls"] == 4
    assert found["left_out"] == {"failed": 1}
    assert found["policies"][0]["exact"] == 1
    assert found["policies"][0]["saved_nanousd"] == 1_000_000


def test_logged_calls_can_be_given_as_lines(folder: Path) -> None:
    log(folder, [record(number) for number in range(3)])
    printed = CliRunner().invoke(cli, ["logs", "tail", "--json"]).stdout

    assert told("simulate", "-", stdin=printed)["calls"] == 3


def test_a_journal_without_bodies_names_the_setting(folder: Path) -> None:
    log(folder, [record(1)._replace(request_body=None, response_body=None)])
    result = llmgate("simulate", "--journal")

    assert result.exit_code == 1
    assert "LLMGATE_LOG__BODIES" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.jsonl", "--journal"],
        ["nowhere.jsonl"],
        ["--journal"],
        ["-", "--max-error", "0.9"],
        ["-", "--max-error", "much"],
        ["-", "--scope", "world"],
    ],
    ids=str,
)
def test_what_cannot_be_is_said_in_a_line(folder: Path, arguments: list[str]) -> None:
    result = llmgate("simulate", *arguments, stdin="")

    assert result.exit_code == 1
    assert result.output
    assert "Traceback" not in result.output
