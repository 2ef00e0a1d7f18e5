"""The soak's own judgement: a lie is seen, a truth is not, and memory that grows is told from memory that does not."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import attrs
import msgspec
import pytest

from tests.soak.check import SHARED, honest, violations
from tests.soak.meter import Process, Sample, growth, left_over
from tests.soak.venue import Record, Truth
from trio_cancel import AlreadyClosed, Canceled, CancelRequest, NotFound, NotSent, Outcome, Rejected, Unknown
from trio_cancel.types import Attempt, CanceledOrder

REQUEST = CancelRequest("A")
ATTEMPTS = (Attempt("r1", 1.0, 2.0, 200),)
APPLIED = Record("r1", applied=True, status=200, error_code=None, fault=None, answered=True)
ORDER = CanceledOrder(
    id="A",
    create_date=datetime(2024, 3, 27, tzinfo=UTC),
    update_date=datetime(2024, 3, 27, tzinfo=UTC),
    executed_amount=Decimal("0.25"),
    remaining_amount=Decimal("0.75"),
    remaining_value=Decimal(75),
    requested_amount=Decimal(1),
    requested_value=Decimal(100),
    total_value=Decimal(100),
    status="canceled",
    type="limit",
    pair="BTC_BRL",
)
CANCELED = Truth("canceled", "0.25", (APPLIED,))

# One cancel of it was applied, another refused.
BOTH = (APPLIED, Record("r2", applied=False, status=429, error_code=42901, fault=None, answered=True))


def refused(status: int | None, code: int | None = None, order: str = "open") -> Truth:
    return Truth(order, "0", (Record("r1", applied=False, status=status, error_code=code, fault=None, answered=True),))


@pytest.mark.parametrize(
    ("outcome", "truth"),
    [
        (Canceled(REQUEST, ATTEMPTS, order=ORDER), CANCELED),
        (AlreadyClosed(REQUEST, ATTEMPTS), refused(400, 40408, "executed_completely")),
        (AlreadyClosed(REQUEST, (Attempt("r0"), *ATTEMPTS), after_unanswered=True), refused(400, 40408, "canceled")),
        (NotFound(REQUEST, ATTEMPTS), refused(404, 40401)),
        (Rejected(REQUEST, ATTEMPTS), refused(401, 40011)),
        (NotSent(REQUEST), Truth("open", "0", ())),
        (NotSent(CancelRequest(external_id=f"{SHARED}1")), CANCELED),
        (Rejected(CancelRequest(external_id=f"{SHARED}1"), (Attempt("r2"),)), attrs.evolve(CANCELED, records=BOTH)),
        (Unknown(REQUEST, ATTEMPTS), CANCELED),
    ],
)
def test_a_truth_passes(outcome: Outcome, truth: Truth) -> None:
    assert violations(outcome, truth) == []


@pytest.mark.parametrize(
    ("invariant", "outcome", "truth"),
    [
        (2, Canceled(REQUEST, ATTEMPTS, order=ORDER), refused(500)),
        (2, Canceled(REQUEST, (Attempt("r2"),), order=ORDER), CANCELED),
        (2, Canceled(REQUEST, ATTEMPTS, order=msgspec.structs.replace(ORDER, executed_amount=Decimal(0))), CANCELED),
        (2, AlreadyClosed(REQUEST, ATTEMPTS), refused(400, 40408)),
        (4, AlreadyClosed(REQUEST, ATTEMPTS), refused(500, None, "canceled")),
        (
            4,
            AlreadyClosed(REQUEST, ATTEMPTS),
            attrs.evolve(CANCELED, records=(attrs.evolve(APPLIED, error_code=40408),)),
        ),
        (4, NotFound(REQUEST, ATTEMPTS), refused(400, 40408)),
        (4, Rejected(REQUEST, ATTEMPTS), CANCELED),
        (4, Rejected(REQUEST, (Attempt("r2"),)), attrs.evolve(CANCELED, records=BOTH)),
        (4, Rejected(REQUEST, ATTEMPTS), refused(503)),
        (4, Rejected(REQUEST, ATTEMPTS), refused(None)),
        (3, NotSent(REQUEST), refused(None)),
        (5, Unknown(REQUEST), Truth("open", "0", ())),
        (7, Canceled(REQUEST, ATTEMPTS, order=ORDER), attrs.evolve(CANCELED, records=(APPLIED, APPLIED))),
        (7, Unknown(REQUEST, ATTEMPTS * 2), CANCELED),
    ],
)
def test_a_lie_is_seen(invariant: int, outcome: Outcome, truth: Truth) -> None:
    assert [text.partition(":")[0] for text in violations(outcome, truth)] == [str(invariant)]


def test_an_unknown_is_honest_only_if_every_attempt_was_answered_in_full() -> None:
    outcome = Unknown(REQUEST, ATTEMPTS)
    assert honest(outcome, CANCELED)
    assert not honest(outcome, attrs.evolve(CANCELED, records=()))
    assert not honest(outcome, attrs.evolve(CANCELED, records=(attrs.evolve(APPLIED, fault="drop_after"),)))


def sample(minute: float, memory: float = 40.0, **other: int) -> Sample:
    names = {"sessions": 0, "pending": 0, "objects": 100, "outcomes": 0, "connections": 0, "faults": 0}
    process = Process(descriptors=other.pop("descriptors", 14), tasks=other.pop("tasks", 3), memory=memory, cpu=0.0)
    return Sample(minute=minute, client=process, venue=process, **{**names, **other})


def test_what_is_left_is_named() -> None:
    assert left_over(sample(0), sample(30)) == []
    assert len(left_over(sample(0), sample(30, descriptors=15))) == 2
    assert len(left_over(sample(0), sample(30, tasks=4))) == 2
    assert "2 objects" in left_over(sample(0), sample(30, objects=102))[0]
    assert "1 orders" in left_over(sample(0), sample(30, pending=1))[0]


def test_growth_is_told_from_noise() -> None:
    steady = [sample(minute, 40 + minute % 3) for minute in range(31)]
    growing = [sample(minute, 40 + minute / 4) for minute in range(31)]
    assert growth(steady, 5.0)[1]
    assert not growth(growing, 5.0)[1]
    assert "too few" in growth(growing[:10], 5.0)[0]
