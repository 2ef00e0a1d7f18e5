"""What a run leaves behind for the checker: stamps, and what each operation's caller learned (values)."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import attrs
import trio

from trio_cancel import CancelRequest, Outcome, SessionClosed
from trio_cancel.sandbox import Log, Order
from trio_cancel.types import Batch, CanceledOrder, CancelReport, OffsetInterval, Statistics

if TYPE_CHECKING:
    from .scenario import Op, Scenario
    from .stream import Wire


class Stamp(NamedTuple):
    """When something happened: trio's clock, and a number that tells what came first at one time."""

    time: float
    order: int


class Told(NamedTuple):
    """What a lookup told of an order: asked when, by trio's clock."""

    at: float
    order_id: str
    status: str


class Recorder:
    """Gives stamps and counts faults."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self._count = 0

    def stamp(self) -> Stamp:
        """Return the next stamp."""
        self._count += 1
        return Stamp(trio.current_time(), self._count)


@attrs.define(eq=False)
class OpResult:
    """What the caller of one operation learned."""

    op: Op
    requests: list[CancelRequest]
    started: Stamp | None = None
    ended: Stamp | None = None
    cancelled_at: float | None = None
    """When its scope was cancelled; None if that never happened or it had ended by then."""
    cancelled: bool = False
    """Whether ``trio.Cancelled`` came out."""
    outcomes: list[tuple[int, Outcome]] = attrs.field(factory=list)
    """Position in ``requests`` and outcome."""
    order: CanceledOrder | None = None
    """What ``cancel`` returned."""
    whole: bool = False
    """Whether there is an outcome for every input."""
    error: SessionClosed | None = None
    batch: Batch | None = None
    reports: list[tuple[Stamp, CancelReport]] = attrs.field(factory=list)
    """Of a batch: when it ended, and after the session."""
    unsettled: tuple[CancelRequest, ...] | None = None
    """Of a stream, as its block was left."""


@attrs.define(eq=False)
class Run:
    """Everything about one run."""

    scenario: Scenario
    recorder: Recorder
    results: list[OpResult] = attrs.field(factory=list)
    wires: list[Wire] = attrs.field(factory=list)
    log: Log = attrs.field(factory=Log)
    orders: dict[str, Order] = attrs.field(factory=dict)
    """As they stood at the end, by id and by external id."""
    told: list[Told] = attrs.field(factory=list)
    """By lookups."""
    lookups_answered: list[float] = attrs.field(factory=list)
    """When, by trio's clock."""
    lookups_limited: bool = False
    """Whether one was told 429, so that cancels are paced."""
    written: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """Request id: operation and position."""
    written_twice: list[str] = attrs.field(factory=list)
    offered: dict[str, Stamp] = attrs.field(factory=dict)
    """Request id: when the client said that it was writing it."""
    began: float = 0.0
    """The client's Unix seconds at time 0."""
    settled: dict[tuple[int, int], list[Stamp]] = attrs.field(factory=dict)
    delivered: dict[tuple[int, int], Outcome] = attrs.field(factory=dict)
    events: list[tuple[Stamp, str, str]] = attrs.field(factory=list)
    """From the observer."""
    entered: Stamp | None = None
    body_ended: Stamp | None = None
    exited: Stamp | None = None
    enter_error: BaseException | None = None
    exit_error: BaseException | None = None
    expected_error: BaseException | None = None
    block_cancelled: bool = False
    """Whether the session's block was cancelled by nobody who may."""
    stray: list[str] = attrs.field(factory=list)
    """Exceptions that nobody may see."""
    hung: list[str] = attrs.field(factory=list)
    pending_at_rest: int | None = None
    pending_at_end: int = 0
    tasks_before: int = 0
    tasks_after: int = 0
    steps: int = 0
    marks: dict[str, int] = attrs.field(factory=dict)
    """How many steps there had been when something first happened."""
    logged: list[tuple[int, str]] = attrs.field(factory=list)
    clock: OffsetInterval | None = None
    statistics: Statistics | None = None
    failed: bool = False


class LogKeeper(logging.Handler):
    """Keeps what the library logs."""

    def __init__(self, kept: list[tuple[int, str]]) -> None:
        super().__init__()
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" [{record.exc_info[1]!r}]"
        self._kept.append((record.levelno, text))
