"""What `LimitStore` promises, of all that there are. Times are real; nothing waits for them."""

from __future__ import annotations

import asyncio
import time

from asgi_llmgate.core.budgets import Budget, Period, budget_meter
from asgi_llmgate.core.meters import Claim, Kind, Meter
from asgi_llmgate.protocols import LimitStore
from tests.limits.conftest import MakeStore, take

HOUR = 3600 * 10**9
RATE = Meter("rate", Kind.RATE, 5, HOUR)
CALLS = Meter("calls", Kind.CONCURRENT, 2)


def budget(limit: int = 100, name: str = "b", subject: str = "ada") -> Meter:
    from datetime import UTC

    return budget_meter(Budget(name, "user", limit, Period.DAY), subject, time.time_ns(), UTC)


async def test_a_rate_lets_its_quota_through_and_no_more(store: LimitStore) -> None:
    taken = [await take(store, Claim(RATE, 1, 1)) for _ in range(6)]

    assert [one.hold is not None for one in taken] == [True] * 5 + [False]
    assert [one.standings[0].remaining for one in taken] == [4, 3, 2, 1, 0, 0]
    assert not taken[-1].standings[0].allowed
    assert 0 < taken[-1].standings[0].wait_ns <= 2 * HOUR
    assert all(one.standings[0].reset_ns > 0 for one in taken)


async def test_workers_share_a_rate(make_store: MakeStore) -> None:
    workers = [make_store() for _ in range(4)]
    taken = [await take(worker, Claim(RATE, 1, 1)) for worker in workers for _ in range(5)]

    assert sum(one.hold is not None for one in taken) == 5


async def test_many_at_once_get_no_more_than_there_is(make_store: MakeStore) -> None:
    workers = [make_store() for _ in range(2)]
    meter = Meter("many", Kind.RATE, 100, HOUR)
    taken = await asyncio.gather(
        *(take(worker, Claim(meter, 1, 1)) for worker in workers for _ in range(150))
    )

    admitted = sum(one.hold is not None for one in taken)
    assert 97 <= admitted <= 100


async def test_all_claims_are_granted_or_none(store: LimitStore) -> None:
    empty = Meter("empty", Kind.RATE, 1, HOUR)
    await take(store, Claim(empty, 1, 1))

    refused = await take(store, Claim(RATE, 1, 1), Claim(empty, 1, 1))
    await store.spent("")  # what was drawn for nothing goes back
    allowed = await take(store, Claim(RATE, 5, 5))

    assert refused.hold is None
    assert [one.allowed for one in refused.standings] == [True, False]
    assert allowed.hold is not None


async def test_a_budget_is_what_was_spent_not_what_was_reserved(store: LimitStore) -> None:
    meter = budget()
    first = await take(store, Claim(meter, 90, 90))
    refused = await take(store, Claim(meter, 20, 20))
    assert first.hold is not None
    store.settle(first.hold, [30])
    spent = await store.spent("budget|b|")
    await asyncio.sleep(0.06)  # a refusal stands for 50 ms
    second = await take(store, Claim(meter, 70, 70))

    assert refused.hold is None
    assert list(spent.values()) == [30]
    assert second.hold is not None


async def test_what_was_spent_beyond_the_reservation_counts(make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    meter = budget()
    taken = await take(one, Claim(meter, 10, 10))
    assert taken.hold is not None
    one.settle(taken.hold, [150])
    await one.spent("")

    refused = await take(other, Claim(meter, 0, 1))

    assert refused.hold is None
    assert refused.standings[0].remaining == 0


async def test_spending_is_told_as_the_sum_of_all_workers(make_store: MakeStore) -> None:
    told: list[int] = []
    for _ in range(2):
        worker = make_store()
        worker.on_spent = lambda key, total: told.append(total)
        taken = await take(worker, Claim(budget(), 10, 10))
        assert taken.hold is not None
        worker.settle(taken.hold, [10])
        await worker.spent("")

    assert max(told) == 20


async def test_calls_at_once_are_limited_and_free_again_when_they_end(
    make_store: MakeStore,
) -> None:
    one, other = make_store(), make_store()
    first = await take(one, Claim(CALLS, 1, 1))
    second = await take(other, Claim(CALLS, 1, 1))
    refused = await take(other, Claim(CALLS, 1, 1))
    assert first.hold is not None
    one.settle(first.hold, [0])
    await one.spent("")
    await asyncio.sleep(0.06)
    third = await take(other, Claim(CALLS, 1, 1))

    assert second.hold is not None
    assert refused.hold is None
    assert third.hold is not None


async def test_a_worker_that_leaves_gives_back_what_it_did_not_use(make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    meter = Meter("large", Kind.RATE, 6400, HOUR)
    taken = await take(one, Claim(meter, 1, 1))
    assert taken.hold is not None
    one.settle(taken.hold, [1])
    await one.aclose()

    rest = await take(other, Claim(meter, 6399, 6399))

    assert rest.hold is not None


async def test_a_caller_who_leaves_while_he_waits_takes_nothing(store: LimitStore) -> None:
    waiting = asyncio.ensure_future(take(store, Claim(CALLS, 2, 2)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    if not waiting.cancelled():  # In memory nobody waits.
        hold = waiting.result().hold
        assert hold is not None
        store.settle(hold, [0])
    for _ in range(100):
        await asyncio.sleep(0.01)
        await store.spent("")
        if (taken := await take(store, Claim(CALLS, 2, 2))).hold is not None:
            break

    assert taken.hold is not None


async def test_budgets_that_one_worker_sets_the_others_see(make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    assert await other.load_budgets() == ()
    kept = Budget("kept", "team", 5_000_000_000, Period.MONTH, soft_nanousd=4_000_000_000)
    await one.set_budget(kept)
    await one.set_budget(Budget("gone", "all", 1))
    removed = await one.remove_budget("gone"), await one.remove_budget("gone")

    assert await other.load_budgets() == (kept,)
    assert one.budgets() == (kept,)
    assert removed == (True, False)


async def test_what_is_too_much_stands_in_nobodys_way_who_needs_less(store: LimitStore) -> None:
    used = await take(store, Claim(budget(), 50, 50))
    too_much = [(await take(store, Claim(budget(), 60, 60))).hold for _ in range(2)]
    fits = await take(store, Claim(budget(), 40, 40))

    assert used.hold is not None
    assert too_much == [None, None]
    assert fits.hold is not None


async def test_a_reset_forgets_what_one_subject_spent(store: LimitStore) -> None:
    for subject in ("ada", "grace"):
        taken = await take(store, Claim(budget(subject=subject), 100, 100))
        assert taken.hold is not None
        store.settle(taken.hold, [100])
        assert await store.first(f"{budget(subject=subject).key}")
    await store.spent("")
    await store.reset_budget("budget|b|", "ada")
    spent = await store.spent("budget|b|")

    assert {key.rpartition("|")[2]: value for key, value in spent.items() if value} == {
        "grace": 100
    }
    assert (await take(store, Claim(budget(subject="ada"), 1, 1))).hold is not None
    assert (await take(store, Claim(budget(subject="grace"), 1, 1))).hold is None
    assert await store.first(budget(subject="ada").key)
    assert not await store.first(budget(subject="grace").key)


async def test_only_one_worker_is_the_first(make_store: MakeStore) -> None:
    workers = [make_store() for _ in range(3)]
    firsts = await asyncio.gather(*(worker.first("budget|x") for worker in workers))

    assert sorted(firsts) == [False, False, True]


async def test_workers_that_start_at_once_do_not_get_in_one_anothers_way(
    make_store: MakeStore,
) -> None:
    workers = [make_store() for _ in range(8)]
    meter = Meter("at once", Kind.RATE, 4, HOUR)
    taken = await asyncio.gather(*(take(worker, Claim(meter, 1, 1)) for worker in workers))

    assert sum(one.hold is not None for one in taken) == 4
