"""Several workers and one budget, in any order of events: nothing is lost and nothing leaks.

The overshoot that is documented is what calls spent beyond their reservation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from asgi_llmgate.core.ledger import Ledger, sum_standing
from asgi_llmgate.core.meters import Claim, Kind, Meter
from asgi_llmgate.core.purse import Posting, Purse

WORKERS = 3
QUOTA = 640
METER = Meter("budget", Kind.BUDGET, QUOTA, ends_ns=10**18)


@dataclass
class Store:
    """What the shared stores do, without any storage."""

    spent: int = 0
    held: dict[int, int] = field(default_factory=dict)

    def draw(self, worker: int, needed: int, wanted: int) -> tuple[int, bool, int]:
        used = self.spent + sum(self.held.values())
        if used + needed > QUOTA:
            return 0, False, max(0, QUOTA - used)
        amount = max(needed, min(wanted, QUOTA - used))
        self.held[worker] = self.held.get(worker, 0) + amount
        return amount, True, max(0, QUOTA - used - amount)

    def post(self, worker: int, posting: Posting) -> None:
        self.spent += posting.spent
        self.held[worker] = self.held.get(worker, 0) - posting.spent - posting.released
        assert self.held[worker] >= 0


class SharedBudget(RuleBasedStateMachine):
    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.store = Store()
        self.purses = [Purse(METER) for _ in range(WORKERS)]
        self.generation = [0] * WORKERS
        self.in_flight: list[tuple[int, int, int]] = []
        self.spent = 0
        self.overspent = 0
        self.lost = 0

    @rule(target=calls, worker=st.integers(0, WORKERS - 1), amount=st.integers(0, 100))
    def take(self, worker: int, amount: int) -> object:
        purse = self.purses[worker]
        needed = max(1, amount)
        missing = purse.reserve(amount, needed, self.now_ns)
        if missing:
            granted, allowed, remaining = self.store.draw(worker, missing, missing + purse.chunk)
            purse.drawing -= missing
            standing = sum_standing(0, METER, 0, 0)._replace(allowed=allowed, remaining=remaining)
            purse.drawn(granted, missing, standing, self.now_ns)
            if not allowed:
                purse.undo(amount)
                return multiple()
        reserved = sum(one for _, _, one in self.in_flight)
        # Every worker knows its own spending, so only what others owe can be overlooked; and what
        # was leased to it stays its own though others have spent too much since.
        owed_elsewhere = sum(
            max(0, -one.free) for place, one in enumerate(self.purses) if place != worker
        )
        too_much = max(0, self.store.spent + sum(self.store.held.values()) - QUOTA)
        most = QUOTA + too_much + owed_elsewhere + self.lost
        assert self.spent + reserved + needed <= most
        call = worker, self.generation[worker], amount
        self.in_flight.append(call)
        return call

    @rule(call=consumes(calls), actual=st.integers(0, 200))
    def settle(self, call: tuple[int, int, int], actual: int) -> None:
        worker, generation, amount = call
        if generation != self.generation[worker]:
            return  # It died with its worker.
        self.in_flight.remove(call)
        self.purses[worker].settle(amount, actual)
        self.spent += actual
        self.overspent += max(0, actual - amount)

    @rule(worker=st.integers(0, WORKERS - 1))
    def post(self, worker: int) -> None:
        self.now_ns += 100_000_000
        posting = self.purses[worker].collect(self.now_ns)
        if posting is not None:
            self.store.post(worker, posting)

    @rule(worker=st.integers(0, WORKERS - 1))
    def fail_to_post(self, worker: int) -> None:
        self.now_ns += 100_000_000
        purse = self.purses[worker]
        before = purse.leased, purse.held, purse.spent
        posting = purse.collect(self.now_ns)
        if posting is not None:
            purse.put_back(posting)
            assert (purse.leased, purse.held, purse.spent) == before

    @rule(worker=st.integers(0, WORKERS - 1))
    def die(self, worker: int) -> None:
        """A killed worker loses what it did not post; its hold ends with its time."""
        self.lost += self.purses[worker].spent
        self.purses[worker] = Purse(METER)
        self.generation[worker] += 1
        self.in_flight = [call for call in self.in_flight if call[0] != worker]
        self.store.held[worker] = 0

    @invariant()
    def spending_never_exceeds_the_budget_by_more_than_calls_exceeded_themselves(self) -> None:
        assert self.spent <= QUOTA + self.overspent + self.lost

    @invariant()
    def the_store_holds_what_the_purses_have(self) -> None:
        for worker, purse in enumerate(self.purses):
            assert self.store.held.get(worker, 0) == purse.leased

    def teardown(self) -> None:
        for worker, _, amount in self.in_flight:
            self.purses[worker].settle(amount, 0)
        for worker, purse in enumerate(self.purses):
            posting = purse.collect(self.now_ns, everything=True)
            if posting is not None:
                self.store.post(worker, posting)
            assert purse.is_empty(self.now_ns + 10**9)
        assert sum(self.store.held.values()) == 0
        assert self.store.spent == self.spent - self.lost


class OneLedger(RuleBasedStateMachine):
    """The same in the memory of one process, where nothing is overlooked."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.reserved: list[int] = []
        self.spent = 0

    @rule(target=calls, amount=st.integers(0, 100))
    def take(self, amount: int) -> object:
        claim = Claim(METER, amount, max(1, amount))
        [standing] = self.ledger.take([claim], 0, 0)
        fits = self.spent + sum(self.reserved) + max(1, amount) <= QUOTA

        assert standing.allowed == fits
        if not fits:
            return multiple()
        self.reserved.append(amount)
        return amount

    @rule(amount=consumes(calls), actual=st.integers(0, 200))
    def settle(self, amount: int, actual: int) -> None:
        self.reserved.remove(amount)
        self.spent += actual

        assert self.ledger.settle(METER, amount, actual, 0) == self.spent

    @invariant()
    def nothing_leaks(self) -> None:
        assert self.ledger.held(METER) == sum(self.reserved)


TestSharedBudget = SharedBudget.TestCase
TestSharedBudget.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestOneLedger = OneLedger.TestCase
TestOneLedger.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
