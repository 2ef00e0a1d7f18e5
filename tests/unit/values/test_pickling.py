"""Exceptions and values survive pickle and copy, also on their way to another process and back."""

from __future__ import annotations

import copy
import errno
import multiprocessing
import pickle
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any

import attrs
import msgspec
import pytest
import trio

import trio_cancel as tc
from trio_cancel import journal, lookup, sandbox, types
from trio_cancel._engine.rate import limit_of
from trio_cancel._values import errors
from trio_cancel._values.pickling import Anything, ForeignCause, portable

REQUEST = tc.CancelRequest("7155ED34-1B1B-4B7E-9A5C-000000000001")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
ORDER = types.CanceledOrder(
    id="7155ED34", create_date=NOW, update_date=NOW, executed_amount=Decimal("0.10"), remaining_amount=Decimal("0.2"),
    remaining_value=Decimal("1E+3"), requested_amount=Decimal("0.3"), requested_value=Decimal(1),
    total_value=Decimal(2), status="canceled", type="limit", pair="BTC_BRL", external_id="mine",
)  # fmt: skip
ATTEMPT = types.Attempt("abc-1", 1.5, 2.5, 429)
REPLY = types.VenueReply(400, 40408, "Order is not active.")
FILL = lookup.Fill(Decimal("0.10"), Decimal(5), Decimal("0.001"), "BTC", NOW)
NOT_SENT = tc.NotSent(REQUEST, cause=tc.NotWritten("its time was over"))
UNKNOWN = tc.Unknown(REQUEST, (ATTEMPT, ATTEMPT), cause=tc.ConnectionLost("reset"), final=False)
OUTCOMES: tuple[tc.Outcome, ...] = (
    tc.Canceled(REQUEST, (ATTEMPT,), order=ORDER),
    tc.AlreadyClosed(REQUEST, (ATTEMPT,), error=REPLY, after_unanswered=True),
    tc.NotFound(tc.CancelRequest(external_id="ü"), error=types.VenueReply(404, 40401, "no")),
    tc.Rejected(REQUEST, error=types.VenueReply(400, 40011, "bad"), clock=types.OffsetInterval(5.0, 9.0), final=False),
    NOT_SENT,
    UNKNOWN,
)
INVALID = types.InvalidItem(3, 7.5, tc.InvalidRequest("item 3: no order"))
REPORT = types.CancelReport(OUTCOMES, journal_failed=True, invalid=(INVALID,))


def raised(function: Callable[[], object]) -> tc.TradingError:
    with pytest.raises(tc.TradingError) as caught:
        function()
    return caught.value


def refused(status: int, code: int | None) -> tc.TradingError:
    error = types.VenueReply(status, code, "words")
    if code == 40408:
        return raised(tc.AlreadyClosed(REQUEST, error=error).unwrap)
    if code == 40401:
        return raised(tc.NotFound(REQUEST, error=error).unwrap)
    return raised(tc.Rejected(REQUEST, error=error).unwrap)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    error.add_note("a note")
    return error


EXCEPTIONS: dict[type[BaseException], BaseException] = {
    type(error): error
    for error in (
        tc.TradingError("root"),
        tc.ConfigurationError("no"),
        tc.InvalidRequest("no"),
        caused(
            tc.HandshakeFailed("no", status=503, retry_after=2.5, final=True), OSError(errno.ECONNREFUSED, "refused")
        ),
        caused(tc.ConnectionLost("reset"), ConnectionResetError(104, "reset")),
        tc.NoReply("12 s"),
        tc.NotWritten("late"),
        tc.InvalidReply("contradiction"),
        errors.UnlistedRefusal("40099"),
        tc.NotSurelyThisOrder("closed", closed=tc.AlreadyClosed(REQUEST)),
        tc.VenueUnavailable(503, 50003, "down"),
        refused(418, None),
        refused(404, 40401),
        refused(400, 40408),
        refused(400, 40011),
        refused(400, 40010),
        refused(429, None),
        raised(UNKNOWN.unwrap),
        raised(NOT_SENT.unwrap),
        raised(REPORT.raise_for_left),
        caused(tc.JournalError("disk"), OSError(errno.ENOSPC, "full")),
        tc.TakenOver("taken over", report=REPORT),
        tc.LookupFailed("limited", status=429, error_code=42900, retry_after=1.5),
        tc.SessionClosed("over"),
        caused(tc.Interrupted(15), raised(REPORT.raise_for_left)),
        sandbox.BookError("no"),
        sandbox.NoSuchOrder("no such order"),
        sandbox.ClosedOrder("closed"),
        sandbox.InvalidOrder("odd"),
        sandbox.SandboxControlError("no"),
        ForeignCause("ssl.SSLError", "words"),
    )
}

HOLD = journal.JournalHold(1, 2, 3.0, None)
CANCEL = journal.JournalCancel(1, 2, 3.0, (ATTEMPT,), "unknown", 4.0, None)
IN_JOURNAL = journal.JournalOrder(REQUEST, (HOLD,), (CANCEL,), (HOLD,), unsettled=True, known_at=4.0)
SESSION = journal.JournalSession(1, 1.0, 2.0, None)
VALUES: dict[type, Any] = {
    type(value): value
    for value in (
        *OUTCOMES,
        ATTEMPT,
        REPORT,
        INVALID,
        REQUEST,
        ORDER,
        tc.Credentials("token", "s3cret"),
        lookup.RestLookup(base_url="https://localhost:1/v4", timeout=2.5),
        types.OffsetInterval(-1.0, 2.0),
        types.Statistics(queued=3, rate=2.5),
        types.LeaseState.UNCERTAIN,
        types.SessionState.CONNECTED,
        REPLY,
        FILL,
        lookup.OrderState(status=lookup.OrderStatus.CANCELED, seen_at=5.0, id="7155ED34", fills=(FILL,)),
        lookup.OrderStatus.PARTIALLY_EXECUTED,
        HOLD,
        CANCEL,
        IN_JOURNAL,
        SESSION,
        types.OpenReport(orders=(), cancels=REPORT, none_seen_since=5.0, outside=1),
        sandbox.FaultStatus({sandbox.Fault.SILENT_BEFORE: 0.5}, {sandbox.Fault.SILENT_BEFORE: 2}),
        journal.JournalContents("wss://h", (SESSION,), (IN_JOURNAL,)),
        sandbox.Book(now=lambda: 1_700_000_000_000).create(external_id="x"),
        sandbox.BookStatus.OPEN,
        sandbox.CustomReply("{}"),
        sandbox.Fault.SILENT_BEFORE,
        sandbox.Faults({sandbox.Fault.SILENT_BEFORE: 0.5}),
        sandbox.RestFault.CUT,
        sandbox.RestFaults({sandbox.RestFault.CUT: 0.5}),
        next(iter(sandbox.Point)),
    )
}


def classes() -> set[type]:
    found = {
        thing
        for module in (tc, types, journal, lookup, sandbox)
        for name in getattr(module, "__all__", dir(module))
        if isinstance(thing := getattr(module, name), type) and thing.__module__.startswith("trio_cancel")
    }
    below: list[type] = [tc.TradingError]
    while below:
        subclasses: list[type] = below.pop().__subclasses__()
        for cls in subclasses:
            if cls.__module__.startswith("trio_cancel."):
                below.append(cls)
                if not cls.__name__.startswith("_"):  # what two of them share is raised as one of them
                    found.add(cls)
    return found


def is_value(cls: type) -> bool:
    return issubclass(cls, Enum | msgspec.Struct) or (attrs.has(cls) and cls.__eq__ is not object.__eq__)


def test_no_class_is_forgotten() -> None:
    public = classes()
    exceptions = {cls for cls in public if issubclass(cls, BaseException)}
    assert exceptions <= set(EXCEPTIONS), "give a sample in EXCEPTIONS"
    values = {cls for cls in public - exceptions if is_value(cls)}
    assert values <= set(VALUES), "give a sample in VALUES"
    assert len(values) > 15


def pickled(protocol: int, thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {protocol}": partial(pickled, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def shape(thing: Any) -> Any:
    """What an exception says and holds, comparable."""
    if isinstance(thing, BaseException):
        fields = {name: shape(value) for name, value in vars(thing).items()}
        return type(thing), str(thing), thing.args, fields, shape(thing.__cause__), thing.__suppress_context__
    return thing


@EVERY_WAY
@pytest.mark.parametrize("cls", EXCEPTIONS, ids=lambda cls: cls.__name__)
def test_exceptions_survive(cls: type[BaseException], way: Callable[[Any], Any]) -> None:
    error = EXCEPTIONS[cls]
    there = way(error)
    assert there is not error
    assert shape(there) == shape(error)
    assert shape(way(there)) == shape(error)


@EVERY_WAY
@pytest.mark.parametrize("cls", VALUES, ids=lambda cls: cls.__name__)
def test_values_survive(cls: type, way: Callable[[Any], Any]) -> None:
    value = VALUES[cls]
    there = way(value)
    assert type(there) is cls
    assert there == value
    assert repr(there) == repr(value)
    if cls not in (sandbox.Faults, sandbox.RestFaults, sandbox.FaultStatus):  # which hold a mapping
        assert hash(there) == hash(value)


@EVERY_WAY
def test_what_unwrap_raises_has_one_cause_not_two_that_look_alike(way: Callable[[Any], Any]) -> None:
    for cause in (tc.NoReply("12 s"), OSError(5, "own"), unpicklable()):
        for outcome in (tc.Unknown(REQUEST, cause=cause), tc.NotSent(REQUEST, cause=cause)):
            error = way(raised(outcome.unwrap))
            assert error.__cause__ is error.outcome.cause is error.cause


@EVERY_WAY
def test_a_copy_of_a_pacer_begins_anew(way: Callable[[Any], Any]) -> None:
    pacer = tc.Pacer(2.5, 3)
    limit_of(pacer).start(1e9)  # another run's clock, perhaps
    there = way(pacer)
    assert (there.rate, there.burst) == (2.5, 3)
    assert limit_of(there).ready_at() < 0


def test_a_copy_shares_no_notes() -> None:
    error = tc.OrdersLeft("left", report=REPORT)
    error.add_note("one")
    twin = copy.copy(error)
    twin.add_note("two")
    assert error.__notes__ == ["one"]
    assert twin.report is error.report


def test_a_copy_keeps_the_very_cause() -> None:
    cause = unpicklable()
    error = caused(tc.HandshakeFailed("no"), cause)
    assert copy.copy(error).__cause__ is cause
    outcome = tc.Unknown(REQUEST, cause=cause)
    assert copy.copy(outcome).cause is cause


def test_credentials_stay_secret_in_a_copy() -> None:
    there = pickle.loads(pickle.dumps(tc.Credentials("token", "s3cret")))
    assert there.api_secret == "s3cret"
    assert "s3cret" not in repr(there)


# Causes of somebody else's


class Odd(Exception):
    """Its constructor takes what pickle does not give."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"odd {code}")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __reduce__(self) -> Any:
        raise RuntimeError("no way")


def unpicklable() -> Exception:
    error = ssl.SSLError(1, "handshake broke")
    error.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # type: ignore[attr-defined]  # as libraries do
    error.add_note("seen at 10:00")
    return error


def with_socket() -> Exception:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return RuntimeError("it broke", ours)


THERE = pytest.mark.parametrize("way", [WAYS["pickle 5"], WAYS["pickle 0"], copy.deepcopy])


@THERE
@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (unpicklable, "ssl.SSLError", "handshake broke"),
        (with_socket, "RuntimeError", "it broke"),
        (lambda: Odd(code=7), f"{__name__}.Odd", "odd 7"),
        (Mute, f"{__name__}.Mute", ""),
    ],
)
def test_a_cause_that_cannot_be_pickled_keeps_name_and_words(
    make: Callable[[], Exception], name: str, words: str, way: Callable[[Any], Any]
) -> None:
    inner = make()
    inner.__cause__ = ValueError("below")
    over = caused(tc.HandshakeFailed("no"), inner)
    found: Any = way(over).__cause__
    assert isinstance(found, ForeignCause)
    assert (found.type_name, words in found.text, name in str(found)) == (name, True, True)
    assert getattr(found, "__notes__", []) == getattr(inner, "__notes__", [])
    assert isinstance(found.__cause__, ValueError)
    assert str(way(found)) == str(found)
    for cause in (over, tc.ConnectionLost("x")):
        left = raised(types.CancelReport((tc.Unknown(REQUEST, cause=cause),)).raise_for_left)
        there = way(left)
        assert (str(there), there.args, there.report) == (str(left), left.args, vars(left)["report"])
        assert shape(way(there)) == shape(there)


@THERE
def test_an_outcome_equals_its_copy_whatever_its_cause(way: Callable[[Any], Any]) -> None:
    for cause in (None, OSError(5, "words"), unpicklable(), tc.NoReply("late")):
        for outcome in (tc.Unknown(REQUEST, cause=cause), tc.NotSent(REQUEST, cause=cause)):
            assert way(outcome) == outcome
            assert hash(way(outcome)) == hash(outcome)
    assert tc.Unknown(REQUEST, cause=tc.NoReply("a")) != tc.Unknown(REQUEST, cause=tc.NoReply("b"))
    assert tc.Unknown(REQUEST, cause=tc.NoReply("a")) != tc.Unknown(REQUEST, cause=tc.NotWritten("a"))


@THERE
def test_an_item_of_the_input_that_cannot_be_pickled_is_shown(way: Callable[[Any], Any]) -> None:
    strange: list[object] = [threading.Lock(), Odd(code=7), (one for one in "x")]
    plain: list[object] = [{"id": 7}, None]
    for item, arrives in [*((item, repr(item)) for item in strange), *((item, item) for item in plain)]:
        report = types.CancelReport((), invalid=(types.InvalidItem(0, item, tc.InvalidRequest("no")),))
        left = way(raised(report.raise_for_left))
        assert left.report.invalid[0].item == arrives
        assert str(left) == str(raised(report.raise_for_left))


@THERE
def test_groups_of_causes_keep_what_they_can(way: Callable[[Any], Any]) -> None:
    inner = OSError("all attempts to connect failed")
    inner.__cause__ = ExceptionGroup("several", [ConnectionRefusedError(111, "refused"), unpicklable()])
    there = way(caused(tc.HandshakeFailed("no"), inner))
    first, second = there.__cause__.__cause__.exceptions
    assert isinstance(first, ConnectionRefusedError)
    assert isinstance(second, ForeignCause)
    # In a group, as nurseries raise them, ours are as whole.
    (left,) = way(ExceptionGroup("bot", [raised(REPORT.raise_for_left)])).exceptions
    assert left.report == REPORT


@THERE
def test_rings_of_causes_end(way: Callable[[Any], Any]) -> None:
    ours, theirs, other = tc.HandshakeFailed("ours"), OSError("theirs"), OSError("other")
    ours.__cause__, theirs.__cause__, other.__cause__ = theirs, other, theirs
    assert str(way(ours).__cause__.__cause__) == "other"
    theirs.__cause__ = ours
    there = way(ours)
    assert there.__cause__.__cause__ is there
    ours.__cause__ = ours
    there = way(ours)
    assert there.__cause__ is there


def test_trio_cancelled_as_a_cause() -> None:
    async def main() -> str:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                found = repr(pickle.loads(pickle.dumps(caused(tc.ConnectionLost("x"), error))).__cause__)
                raise
        return found

    assert "Cancelled" in trio.run(main)


# Another process


def fail(error: BaseException) -> None:
    raise error


def echo(value: Any) -> Any:
    return value


class OnlyHere(Exception):
    pass


OnlyHere.__module__ = "a_module_that_the_other_process_does_not_know"


def test_there_and_back_through_another_process() -> None:
    left = raised(REPORT.raise_for_left)
    left.add_note("from the scope")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for cls, error in EXCEPTIONS.items():
            if issubclass(cls, tc.TradingError):
                there = pool.submit(fail, error).exception()  # its cause is the worker's traceback now
                assert there is not None
                assert shape(there)[:4] == shape(error)[:4]
        there = pool.submit(fail, left).exception()
        assert isinstance(there, tc.OrdersLeft)
        assert there.report == REPORT
        assert there.report.counts == REPORT.counts
        assert there.__notes__ == ["from the scope"]
        assert list(VALUES.values()) == pool.submit(echo, list(VALUES.values())).result()
        unknown = tc.Unknown(REQUEST, cause=OnlyHere("words"))
        assert pool.submit(echo, unknown).result() == unknown


def test_a_stand_in_shows_class_and_words() -> None:
    assert str(ForeignCause("mod.Odd", "went wrong")) == "mod.Odd: went wrong"
    assert str(ForeignCause("mod.Odd", "")) == "mod.Odd"


class Shy:
    def __repr__(self) -> str:
        raise ValueError

    def __reduce__(self) -> str:
        raise ValueError


def test_what_cannot_show_itself_is_shown_by_its_class() -> None:
    arrived = pickle.loads(pickle.dumps(Anything(Shy())))
    assert isinstance(arrived, str)
    assert "Shy object at 0x" in arrived


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError

    def __reduce__(self) -> str:
        raise ValueError


def test_what_has_no_words_arrives_by_its_name() -> None:
    arrived = pickle.loads(pickle.dumps(portable(Wordless())))
    assert isinstance(arrived, ForeignCause)
    assert (arrived.text, arrived.type_name.rpartition(".")[2]) == ("", "Wordless")


class Forgetful(Exception):
    """Its pickle is no exception."""

    def __reduce__(self) -> Any:
        return str, ("nothing",)


def test_what_does_not_arrive_as_an_exception_arrives_by_its_name() -> None:
    arrived = pickle.loads(pickle.dumps(portable(Forgetful("gone"))))
    assert isinstance(arrived, ForeignCause)
    assert str(arrived).endswith("Forgetful: gone")


@pytest.mark.parametrize("error", [ValueError("x"), Forgetful("x")])
def test_each_note_arrives_once(error: Exception) -> None:
    error.add_note("first")
    error.add_note("second")
    arrived: Any = pickle.loads(pickle.dumps(portable(error)))
    assert arrived.__notes__ == ["first", "second"]


def test_a_copy_keeps_where_it_was_raised() -> None:
    with pytest.raises(tc.ConnectionLost) as caught:
        raise tc.ConnectionLost("cut")
    assert copy.copy(caught.value).__traceback__ is caught.value.__traceback__ is not None
