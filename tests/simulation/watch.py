"""What is seen of the client from outside while it runs: its observer's events, and the moment each order settles."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from unittest.mock import patch

from trio_cancel import CancelRequest, Outcome
from trio_cancel._engine.order import OrderCancel
from trio_cancel._values.observer import Observer

from .callers import Callers


class Watch(Observer):
    """Puts on record which request id belongs to which operation, and every event."""

    def __init__(self, callers: Callers, throw: Callable[[], None]) -> None:
        self._callers = callers
        self._throw = throw

    def _note(self, event: str, *args: object) -> None:
        done = self._callers.done
        done.events.append((done.recorder.stamp(), event, " ".join(map(str, args))))
        self._throw()

    def request_queued(self, request: CancelRequest) -> None:
        self._note("queued", request.key)

    def request_written(self, request: CancelRequest, request_id: str) -> None:
        done = self._callers.done
        if request_id in done.written:
            done.written_twice.append(request_id)
        done.offered.setdefault(request_id, done.recorder.stamp())
        done.written[request_id] = self._callers.place(request)
        self._note("written", request.key, request_id)

    def request_answered(self, request: CancelRequest, request_id: str, status: int | None, seconds: float) -> None:
        self._note("answered", request_id, status, f"{seconds:.6f}")

    def settled_late(self, outcome: Outcome) -> None:
        self._note("settled_late", outcome.request.key, outcome.kind)

    def connection_opened(self, number: int) -> None:
        self._note("opened", number)

    def connection_lost(self, number: int, cause: BaseException | None) -> None:
        self._note("lost", number, cause)

    def connection_failed(self, error: BaseException) -> None:
        self._note("failed", error)

    def paced(self, rate: float) -> None:
        self._note("paced", f"{rate:.6f}")


@contextmanager
def deliveries(callers: Callers) -> Generator[None]:
    """Put on record when each order settles: before its caller runs again, which may be later."""

    def note(pending: OrderCancel) -> None:
        done = callers.done
        place = callers.place(pending.request)
        done.settled.setdefault(place, []).append(done.recorder.stamp())
        assert pending.outcome is not None
        done.delivered[place] = pending.outcome

    with before_delivery(note):
        yield


@contextmanager
def before_delivery(note: Callable[[OrderCancel], None]) -> Generator[None]:
    """Call ``note`` with each order that has settled, before its outcome is delivered."""
    original = OrderCancel.deliver

    def deliver(order: OrderCancel) -> None:
        note(order)
        original(order)

    with patch.object(OrderCancel, "deliver", deliver):
        yield
