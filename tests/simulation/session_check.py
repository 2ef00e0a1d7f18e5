"""What must hold for a session as a whole: its bounds, its connections, what it leaves behind, what it logs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from trio_cancel.sandbox import Fault

from .harness import CREDENTIALS
from .record import Run, Stamp
from .scenario import ExitKind
from .stream import NetFault, Wire
from .truth import Truth

EXIT_TIME = 2.0
BOUND = 1.0
"""Seconds after its deadline by which something must have happened."""
ROUNDING = 0.002
DEAD_AFTER = 15.0 + 10.0
"""Seconds in which a connection that is half-open must be found and left: ping interval and pong deadline."""
HOPELESS = frozenset(
    {
        Fault.DROP_BEFORE,
        Fault.DROP_AFTER,
        Fault.CLOSE_BEFORE,
        Fault.CLOSE_AFTER,
        Fault.STALL_BEFORE,
        Fault.STALL_AFTER,
        Fault.STOP_READING,
        Fault.TRICKLED,  # pongs wait behind it
        Fault.OVERSIZE,
        Fault.BAD_UTF8,
        Fault.RESERVED_BIT,
        Fault.BAD_CLOSE,
        Fault.CUT,
    }
)
"""Faults after which a connection may, or must, be given up."""
BAD_MESSAGES = 100
RETRY_LATER = frozenset({Fault.UPGRADE_429, Fault.UPGRADE_503, Fault.UPGRADE_ENDLESS})
LEAST_PAUSE = 0.05
EARLY = 2.0
"""Seconds for which Retry-After is honoured at least, also while an order waits."""


def check_session(run: Run, truth: Truth) -> Iterator[str]:
    """Yield what is wrong with the session."""
    for text in run.stray:
        yield f"I10: stray exception: {text}"
    if run.hung and not truth.limited and run.scenario.pacer is None:
        waiting = [number for number, result in enumerate(run.results) if result.started and result.ended is None]
        yield f"I6: hung: {run.hung}, operations {waiting}"
    yield from _check_block(run)
    for wire in run.wires:
        yield from _check_wire(run, wire)
    yield from _check_dials(run)
    yield from _check_rest(run, truth)
    for _, text in run.logged:
        if CREDENTIALS.api_secret in text or CREDENTIALS.api_token in text:
            yield f"I10: a secret was logged: {text}"
    failed = sum("the observer failed" in text for _, text in run.logged)
    if failed != run.recorder.faults["observer_raised"]:
        yield f"I10: the observer raised {run.recorder.faults['observer_raised']} times, {failed} of them are logged"
    if run.block_cancelled and not run.hung:
        yield "I10: the session's block was cancelled"
    if run.clock is not None and not run.clock.low - 2 <= run.scenario.skew <= run.clock.high + 2:
        yield f"I5: the clocks differ by {run.scenario.skew} ms, not by {run.clock}"


def _check_block(run: Run) -> Iterator[str]:
    """Entering and leaving."""
    assert run.exited is not None
    if run.entered is None:
        begun, bound = 0.0, run.scenario.connect_timeout + BOUND
        if run.enter_error is None and run.scenario.end.kind is not ExitKind.CANCELLED:
            yield "I6: entering failed without a reason"
    else:
        assert run.body_ended is not None
        begun, bound = run.body_ended.time, EXIT_TIME
    if run.exited.time - begun > bound + ROUNDING:
        yield f"I6: entering or leaving took {run.exited.time - begun:.3f} s"
    if run.exit_error is not run.expected_error:
        yield f"I10: the block raised {run.expected_error!r}, and {run.exit_error!r} came out"


def _check_wire(run: Run, wire: Wire) -> Iterator[str]:
    """A connection that is dead is left in time, one that is not is kept, and either is read and closed."""
    closed = wire.closed_at
    if closed is None:
        yield f"I10: wire {wire.number} is still open"
        return
    if wire.unread_since is not None and closed.time - wire.unread_since > BOUND:
        yield f"I10: wire {wire.number}: nobody read for {closed.time - wire.unread_since:.3f} s"
    struck = wire.struck_at
    if wire.road.fault is NetFault.BLACKHOLE and struck is not None and closed.time - struck > DEAD_AFTER + BOUND:
        yield f"I6: wire {wire.number} was half-open for {closed.time - struck:.3f} s"
    opened = b"\r\n\r\n" in wire.down.data[: wire.down.read]  # within connect_timeout
    if not opened or wire.venue_number is None or run.body_ended is None or closed.order > run.body_ended.order:
        return
    venue = run.log.connections[wire.venue_number]
    faults = {record.fault for record in run.log if record.connection == venue.number}
    left = wire.left_at is not None and wire.left_at.order < closed.order
    # A write is waited for until ``write_deadline``, and no longer than the time of the orders in it,.
    stalled = any(end > len(wire.up.data) and closed.time > stamp.time for stamp, _, end in wire.offers)
    noisy = sum(record.connection == venue.number for record in run.log) > BAD_MESSAGES
    closing = venue.note.startswith("closed by the sandbox")
    excused = wire.is_look or left or closing or stalled or noisy or struck is not None or venue.fault is not None
    if venue.upgraded_at is not None and not excused and not faults & HOPELESS:
        yield f"I10: wire {wire.number} was given up without a reason; the venue noted {venue.note!r}, faults {faults}"


def _check_dials(run: Run) -> Iterator[str]:
    """Connections are replaced with a pause between them, and Retry-After is honoured until an order waits."""
    for wire, after in pairwise(wire for wire in run.wires if not wire.is_look):
        if wire.venue_number is None or after.venue_number is None:
            continue
        venue = run.log.connections[wire.venue_number]
        pause = run.log.connections[after.venue_number].opened_at - venue.opened_at
        told = venue.fault in RETRY_LATER and wire.struck_at is None
        least = (run.scenario.faults.retry_after or 0.0) if told else 0.0
        opened_at = run.log.connections[after.venue_number].opened_at
        if any(result.started is not None and result.started.time <= opened_at for result in run.results):
            least = min(least, EARLY)
        if pause < max(least, LEAST_PAUSE) - ROUNDING:
            yield f"I6: wire {after.number} came {pause:.3f} s after wire {wire.number}, which noted {venue.note!r}"


def _check_rest(run: Run, truth: Truth) -> Iterator[str]:
    """Tables and tasks are back where they were."""
    if run.pending_at_end:
        yield f"I10: {run.pending_at_end} orders pending after the end"
    if run.tasks_after != run.tasks_before:
        yield f"I10: {run.tasks_after - run.tasks_before} tasks left"
    tracked = {place for place in truth.places if not _settled_by(run, place, run.body_ended)}
    if run.pending_at_rest is not None and run.pending_at_rest > len(tracked):
        yield f"I10: {run.pending_at_rest} orders pending at rest, {len(tracked)} of them in flight"
    unsettled = [place for place in truth.places if len(run.settled.get(place, ())) != 1]
    if unsettled:
        yield f"I1: written and not settled exactly once: {unsettled}"


def _settled_by(run: Run, place: tuple[int, int], stamp: Stamp | None) -> bool:
    settled = run.settled.get(place, [])
    return bool(settled) and (stamp is None or settled[0].order < stamp.order)


def connected(run: Run) -> list[tuple[float, float]]:
    """Return when there was a connection: pairs of first and last moment."""
    spans: list[tuple[float, float]] = []
    for stamp, event, _ in run.events:
        if event == "opened":
            spans.append((stamp.time, float("inf")))
        elif event == "lost" and spans:
            spans[-1] = (spans[-1][0], stamp.time)
    return spans
