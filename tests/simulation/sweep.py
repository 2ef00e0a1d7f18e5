"""Cancelled at every await: an operation's scope is cancelled before every task step that can come while it runs.

Cases are operations (cancel, batch, stream, connect, close) times faults times numbers of orders. A case runs once
undisturbed, to count its steps; then once for each step at which it is cancelled. The same checker looks at every run,
and a cancel that follows shows that the session is still of use.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import attrs

from trio_cancel.sandbox import Fault, Faults

from .checker import check
from .harness import run
from .record import Run
from .scenario import (
    CLOSE_FAULTS,
    DIAL_FAULTS,
    ODD_FAULTS,
    REQUEST_FAULTS,
    UPGRADE_FAULTS,
    WIRE_FAULTS,
    Exit,
    ExitKind,
    Kind,
    Op,
    OrderPlan,
    Scenario,
)
from .stream import NetFault, Road

OPERATIONS = ("cancel", "batch", "stream", "connect", "close")
ODD_STREAMS = tuple(fault for fault in ODD_FAULTS if not fault.at_dial)
EVERY_FEW = 17
"""The stride for 100 orders."""


@attrs.frozen
class Case:
    """An operation under a fault, with so many orders."""

    operation: str
    fault: Fault | NetFault | None
    orders: int

    def __str__(self) -> str:
        return f"{self.operation} of {self.orders} under {self.fault}"

    def scenario(self, step: int | None) -> Scenario:
        """Return its scenario, cancelled at a step or not at all."""
        orders = tuple(OrderPlan(f"ORDER-{index}") for index in range(self.orders + 1))
        every = tuple((index, False) for index in range(self.orders))
        end = Exit(rest=0.5)
        ops: tuple[Op, ...] = ()
        match self.operation:
            case "cancel":
                ops = tuple(Op(Kind.TRY, (order,), step=step if order == every[0] else None) for order in every)
            case "batch":
                ops = (Op(Kind.BATCH, every, step=step),)
            case "stream":
                ops = (Op(Kind.STREAM, every, step=step, trickle=0.0),)
            case "connect":
                end = Exit(ExitKind.CANCELLED, step=step) if step is not None else Exit()
            case "close":  # while orders are under way
                ops = (Op(Kind.BATCH, every),)
                end = Exit(ExitKind.LEFT, at=0.01, closing_step=step)
        if self.operation not in ("connect", "close"):
            ops += (Op(Kind.TRY, ((self.orders, False),), start=1.0),)
        fault = self.fault
        return Scenario(
            0,
            orders,
            ops,
            end=end,
            connect_timeout=1.0,
            reply_timeout=2.0,
            give_up_after=5.0,
            delay=0.05 if self.operation == "close" else 0.0,
            scripted=((0, fault),) if fault in REQUEST_FAULTS else (),  # type: ignore[arg-type]  # so it is a Fault
            upgrades=(fault,) if fault in UPGRADE_FAULTS else (),  # type: ignore[arg-type]  # see above
            faults=Faults({fault: 1.0} if fault in CLOSE_FAULTS else {}, hold=20.0, late=(2.5, 4.0)),  # type: ignore[dict-item]  # see above
            roads=(self._road(),),
        )

    def _road(self) -> Road:
        if not isinstance(self.fault, NetFault):
            return Road()
        downward = self.fault in (NetFault.CUT, NetFault.ODD_RECEIVE)
        # In the middle of the first request or reply; when connecting, of the upgrade.
        at_byte = 80 if self.operation == "connect" else 450 if downward else 260
        narrow = self.fault in (NetFault.STALL, NetFault.BLACKHOLE)
        return Road(
            capacity=1_000 if narrow else 65_536,
            fault=self.fault,
            upward=not downward,
            at_byte=at_byte,
            seconds=0.5 if self.fault.at_dial else 7.0,
            direct=not self.fault.odd,
        )

    def steps(self) -> tuple[int, list[str]]:
        """Return how many steps its operation takes when it is left alone, and the violations of that run."""
        done = run(self.scenario(None))
        return _length(self.operation, done), check(done)


def _length(operation: str, done: Run) -> int:
    marks = done.marks
    if operation == "connect":
        return marks["left"]
    if operation == "close":
        return marks["left"] - marks["leaving"] if "leaving" in marks else 0
    return (marks["left"] if done.results[0].ended is None else marks["ended"]) - marks.get("started", marks["ended"])


def cases(numbers: tuple[int, ...] = (1, 3, 100)) -> Iterator[Case]:
    """Yield every case."""
    for operation in OPERATIONS:
        faults: tuple[Fault | NetFault, ...] = (*REQUEST_FAULTS, *WIRE_FAULTS, *ODD_STREAMS)
        if operation == "connect":
            faults = (*UPGRADE_FAULTS, *WIRE_FAULTS, *DIAL_FAULTS, *ODD_FAULTS)
        elif operation == "close":
            faults += CLOSE_FAULTS
        for fault in (None, *faults):
            for orders in numbers if operation != "connect" else (1,):
                yield Case(operation, fault, orders)


def sweep(case: Case, most: int | None = None, offset: int = 0) -> tuple[Case, int, list[str]]:
    """Run a case cancelled at every step; return how many runs that were, and the violations.

    Args:
        case: with 100 orders it is every 17th step.
        most: at most so many steps, evenly spread, beginning with the ``offset``-th.
        offset: see there.
    """
    steps, found = case.steps()
    violations = [f"{case}: {text}" for text in found]
    runs = 1
    stride = EVERY_FEW if case.orders == 100 else 1
    if most is not None:
        stride = max(stride, -(-(steps + 2) // most))
    for step in range(offset % stride, steps + 2, stride):
        runs += 1
        try:
            found = check(run(case.scenario(step)))
        except Exception as error:
            found = [f"I10: {error!r}"]
        violations += [f"{case}, cancelled at step {step}: {text}" for text in found]
    return case, runs, violations


def sweep_all(most: int | None = None, numbers: tuple[int, ...] = (1, 3, 100)) -> Iterator[tuple[Case, int, list[str]]]:
    """Run every case on every processor; yield results in order."""
    every = list(cases(numbers))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context) as pool:
        yield from pool.map(sweep, every, [most] * len(every), range(len(every)), chunksize=4)


def run_all() -> bool:
    """Run every case and print a summary by operation; return True if anything was violated."""
    totals: dict[tuple[str, int], list[int]] = {}
    violated = False
    for case, runs, violations in sweep_all():
        total = totals.setdefault((case.operation, case.orders), [0, 0, 0])
        total[0] += 1
        total[1] += runs
        total[2] += len(violations)
        for text in violations[:5]:
            print("VIOLATION", text)
        violated = violated or bool(violations)
    print("| operation | orders | faults | runs | violations |\n|---|---:|---:|---:|---:|")
    for (operation, orders), (count, runs, found) in totals.items():
        print(f"| {operation} | {orders} | {count - 1} and none | {runs} | {found} |")
    return violated
