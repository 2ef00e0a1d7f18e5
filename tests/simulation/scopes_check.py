"""Compares what scopes, journal and resume say with what is true; each violation names what was broken.

I11. No request was written before its intent was durable, unless the journal had been marked failed by then.
S1. A scope's end: every order that it still held and that may be on the book is in its report as left, which was told.
S2. At the death of the process no cancel that the venue applied, then or later, and no order held is missing from the
    journal.
S3. After a resume no order that was held or unsettled is on the book, unless it was told as left; where nothing kept
    the resume from the venue, it is off the book.
S4. What is said to be off the book is.
I12. No outcome that says yes or no, looked up or not, contradicts the venue's book and log, when it is told or later.
S5. Everything back at its baseline, in time: tables, holds, scopes, tasks, connections, the journal; nothing stray; and
    nothing stays held in a journal that was closed in an orderly way but what was left. The block is not cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import trio

from trio_cancel import Canceled, CancelRequest, OrdersLeft, Outcome
from trio_cancel._journal.journal import PATIENCE
from trio_cancel._values.timings import Timings
from trio_cancel.journal import JournalContents

from .book_truth import check_truth, unseen
from .harness import CREDENTIALS, BodyError
from .life import Life
from .scenario import ExitKind, Kind
from .scopes_run import Resume, ScopeRun
from .session_check import ROUNDING
from .tap import sent_requests
from .trading import Held, ScopeResult

ANSWERS_MOST = 4 * 3.0
"""Seconds that the venue takes for the answers to a bulk cancel, a window after the other."""
DEFINITE = ("canceled", "already_closed", "not_found")


def check_scopes(whole: ScopeRun) -> list[str]:
    """Return the violations of a run, none if all is well."""
    return [
        *whole.wrong,
        *_check_writes(whole),
        *(text for result in whole.scopes for text in _check_scope(whole, result)),
        *_check_death(whole),
        *(text for resume in whole.resumes if resume.finished for text in _check_resume(whole, resume)),
        *_check_truth(whole),
        *_check_book(whole),
        *_check_time(whole),
        *_check_rest(whole),
    ]


def _order_id(whole: ScopeRun, request: CancelRequest) -> str | None:
    if request.id is not None:
        return request.id
    return next((o.id for o in whole.run.scenario.orders if o.external_id == request.external_id), None)


# The journal


def _check_writes(whole: ScopeRun) -> Iterator[str]:
    offered = {sent.request_id: sent.offered for wire in whole.run.wires for sent in sent_requests(wire)[0]}
    for life in whole.lives:
        for request_id, (request, intent, at) in life.written.items():
            durable = whole.disk.committed.get(intent)
            first = min(at, offered.pop(request_id, at))
            if intent not in life.excused and (durable is None or durable.order > first.order):
                yield f"I11: {request_id} for {request} was written before its intent {intent} was durable ({durable})"
    if offered:
        yield f"I11: requests went out unannounced: {list(offered)}"


def _missing(whole: ScopeRun, life: Life, intent: int) -> bool:
    durable = whole.disk.committed.get(intent)
    assert life.died is not None
    return intent not in life.excused and (durable is None or durable.order > life.died.order)


def _check_death(whole: ScopeRun) -> Iterator[str]:
    for life in whole.lives:
        for record in whole.run.log if life.dead else ():
            if record.applied_at is None or record.request_id not in life.written:
                continue
            request, intent, _ = life.written[record.request_id]
            if _missing(whole, life, intent):
                yield f"S2: the venue canceled {request}, and the journal of the dead process does not know of it"
    if whole.at_death is None:
        return
    known = _held_in(whole.at_death)
    for held in _held_at_death(whole):
        if held.request not in known:
            yield f"S2: {held.request} was held and is on the book, and the journal of the dead process has no hold"


def _held_in(contents: JournalContents) -> set[CancelRequest]:
    return {order.request for order in contents.orders if order.held}


def _held_at_death(whole: ScopeRun) -> list[Held]:
    """Return what the dead process held, of the orders on the book and on their way there."""
    return [held for held in whole.held if held.forgotten is None and held.order.id in whole.on_book_at_death]


def _unsettled_at_death(whole: ScopeRun) -> set[CancelRequest]:
    """Return the orders for which the dead process wrote, and of which it did not know what had become."""
    life = whole.lives[0]
    outcomes: dict[int, Outcome] = {intent: outcome for _, intent, outcome, _ in life.settled}
    story: dict[CancelRequest, dict[int, str]] = {}
    for request, intent, _ in life.written.values():
        if not _missing(whole, life, intent) and intent not in life.excused:
            outcome = outcomes.get(intent)
            story.setdefault(request, {})[intent] = "unknown" if outcome is None else outcome.kind
    unsettled = set()
    for request, kinds in story.items():
        relevant = [kind for _, kind in sorted(kinds.items()) if kind in (*DEFINITE, "unknown")]
        if relevant and relevant[-1] == "unknown":
            unsettled.add(request)
    return unsettled


def _check_resume(whole: ScopeRun, resume: Resume) -> Iterator[str]:
    told = {outcome.request: outcome for outcome in resume.told}
    if sorted(str(outcome.request) for outcome in resume.told) != sorted(map(str, resume.orders)):
        yield f"S3: resume was to cancel {resume.orders} and told {resume.told}"
    for outcome in resume.told:
        if _may_be_old(whole, outcome) and outcome.request not in _held_before(whole):
            continue  # a mere cancel by this name
        if outcome.off_book and _order_id(whole, outcome.request) in resume.on_book:
            yield f"S4: resume said {outcome.kind} of {outcome.request}, which is on the book"
    by_order = {_order_id(whole, outcome.request): outcome for outcome in resume.told}
    held = {each.request for each in _held_at_death(whole)}
    first = next(resume for resume in whole.resumes if resume.finished)
    since = {  # what a resume that died had found out; if it had found a mere cancel's order missing, that was settled
        request
        for life in whole.lives[1:]
        for request, _, outcome, _ in life.settled
        if life.dead and outcome.kind in DEFINITE
    }
    mere = {request for request in _unsettled_at_death(whole) if request.external_id not in _reused(whole)}
    for request in held | (mere - since):
        order_id = _order_id(whole, request)
        if order_id not in resume.on_book:
            continue
        said = told.get(request) or by_order.get(order_id)  # it is asked for once, and told under one of its names
        if said is None and resume is first:
            yield f"S3: {request} was held or unsettled and is on the book, and resume did not tell of it"
        elif said is not None and said.off_book:
            yield f"S3: {request} is on the book, and resume said {said.kind}"
        elif request in held and said is not None and resume.failure is None and _can_reach(whole):
            yield f"S3: {request} was held and is on the book after a resume that nothing hindered"


def _reused(whole: ScopeRun) -> set[str | None]:
    """Return the external ids that have named an older order before."""
    return {whole.run.scenario.orders[trade.order].external_id for trade in whole.plan.trades if trade.old is not None}


def _held_before(whole: ScopeRun) -> set[CancelRequest]:
    return set() if whole.at_death is None else _held_in(whole.at_death)


def _may_be_old(whole: ScopeRun, outcome: Outcome) -> bool:
    """Return True for a yes that may be about an older order of the name."""
    this = isinstance(outcome, Canceled) and outcome.order.id == _order_id(whole, outcome.request)
    return outcome.request.external_id in _reused(whole) and not this


def _limited(whole: ScopeRun) -> bool:
    scenario = whole.run.scenario
    return scenario.rate is not None or scenario.daily_limit is not None or scenario.pacer is not None


def _can_reach(whole: ScopeRun) -> bool:
    scenario = whole.run.scenario
    return (
        whole.plan.healed
        and not _limited(whole)
        and not scenario.skew
        and not scenario.upgrades
        and not scenario.crossed
    )


# Scopes


def _check_scope(whole: ScopeRun, result: ScopeResult) -> Iterator[str]:
    died = whole.lives[0].died
    if died is not None and (result.left is None or result.left.order > died.order):
        return
    name = f"scope {result.number}"
    if result.left is None:
        yield f"S5: {name} never ended"
        return
    if result.leaving is None:
        return  # it was never entered
    if result.report is None:
        yield f"S1: {name} has no report"
        return
    if result.left.time - result.leaving.time > result.plan.grace + ROUNDING:
        yield f"S5: {name} took {result.left.time - result.leaving.time:.3f} s to end"
    left = {outcome.request for outcome in result.report.left}
    for request in result.on_book - left:
        yield f"S1: {name}: {request} was held and is on the book, and the report does not say that it is left"
    under_it = not whole.plan.inside and whole.run.scenario.end.kind is not ExitKind.DONE  # the session may have ended
    lookup = whole.run.scenario.lookup
    fair = not _limited(whole) and not whole.run.scenario.skew and (lookup is None or not lookup.chance)
    if whole.plan.quiet and fair and not under_it:
        settle = Timings().settle
        enough = result.plan.grace >= settle + PATIENCE + ANSWERS_MOST and result.plan.settle >= settle
        for request in result.on_book if enough else ():
            yield f"S1: {name}: {request} was held and is on the book, though nothing but the disk failed"
    logged = [text for level, text in whole.run.logged if level == logging.ERROR and "order scope left" in text]
    for request in left:
        if not any(request.key in text for text in logged):
            yield f"S1: {name}: {request} was left, and the log does not say so"
    yield from _check_told(name, result, left)


def _check_told(name: str, result: ScopeResult, left: set[CancelRequest]) -> Iterator[str]:
    error = result.error
    if isinstance(error, OrdersLeft):
        if error.report is not result.report or not left:
            yield f"S1: {name} raised OrdersLeft, and its report says {result.report}"
    elif isinstance(error, BaseExceptionGroup) and error.split((BodyError, trio.Cancelled))[1] is None:
        notes = " ".join(getattr(error, "__notes__", ()))
        if unnamed := [request for request in left if request.key not in notes]:
            yield f"S1: {name}: the exception that left it does not name {unnamed}"
    elif error is not None:
        yield f"S5: {name} raised {error!r}"
    elif left:
        yield f"S1: {name} left {left}, and nothing was raised"


# The whole


def _check_truth(whole: ScopeRun) -> Iterator[str]:
    """What somebody was told is off the book is off it, if no other order has had its name."""
    on_book = {order.id for order in whole.run.orders.values() if order.status.active}
    for life in whole.lives:
        for request, _, outcome, _ in life.settled:
            if outcome.off_book and not _may_be_old(whole, outcome) and _order_id(whole, request) in on_book:
                yield f"S4: {request} is {outcome.kind}, and on the book"


def _check_book(whole: ScopeRun) -> Iterator[str]:
    """What a cancel said of its order is true, and stays so."""
    run = whole.run
    records = {request_id: record for record in run.log if (request_id := record.request_id) is not None}
    for life in whole.lives:
        first: dict[int, float] = {}
        applied: dict[int, list[str]] = {}
        for request_id, (_, intent, at) in life.written.items():
            first.setdefault(intent, at.time)
            record = records.get(request_id)
            if record is not None and record.applied_at is not None:
                applied.setdefault(intent, []).append(request_id)
        for request, intent, outcome, at in life.settled:
            if intent and outcome.off_book is False and intent in applied:
                yield f"I12: {request} is {outcome.kind}, and the venue applied {applied[intent]}"
            since = first.get(intent, at.time)
            skew = run.scenario.skew
            since_ms, until_ms = (int(1000 * (run.began + time)) + skew for time in (since, at.time))
            yield from check_truth(run.orders.values(), run.told, outcome, since_ms - unseen(skew), until_ms, at.time)


def _check_time(whole: ScopeRun) -> Iterator[str]:
    """A journal never blocks a cancel: where only the disk fails, the venue's answer is all that is waited for."""
    if not whole.plan.quiet or _limited(whole) or whole.run.scenario.lookup is not None:
        return
    for number, result in enumerate(whole.run.results):
        if result.op.kind is not Kind.STREAM and result.started is not None and result.ended is not None:
            seconds = result.ended.time - result.started.time
            if seconds > 2 * PATIENCE + ANSWERS_MOST + ROUNDING:
                yield f"S5: operation {number} took {seconds:.3f} s, though nothing but the disk failed"


def _check_rest(whole: ScopeRun) -> Iterator[str]:
    run = whole.run
    yield from (f"S5: hung: {text}" for text in run.hung)
    if not whole.lives[0].dead:
        yield from (f"S5: stray exception: {text}" for text in run.stray)
        if run.exit_error is not run.expected_error:
            yield f"S5: the block raised {run.expected_error!r}, and {run.exit_error!r} came out"
    failed = sum("the observer failed" in text for _, text in run.logged)
    if failed != run.recorder.faults["observer_raised"]:
        yield f"S5: the observer raised {run.recorder.faults['observer_raised']} times, {failed} of them are logged"
    if run.block_cancelled and not run.hung:
        yield "S5: the session's block was cancelled"
    if run.tasks_after != run.tasks_before:
        yield f"S5: {run.tasks_after - run.tasks_before} tasks left"
    if whole.listeners:
        yield f"S5: {whole.listeners} scopes still listen for Ctrl-C"
    yield from (f"S5: wire {wire.number} is still open" for wire in run.wires if wire.closed_at is None)
    for number, life in enumerate(whole.lives, 1):
        if life.ws is not None:
            session = life.ws._session
            holders, pending = session.engine.holds.holders, life.ws.statistics().pending
            if holders or pending or session.scopes:
                yield f"S5: process {number} keeps {list(holders)}, {pending} pending, {len(session.scopes)} scopes"
        if life.journal is not None and not life.journal.ended.is_set():
            yield f"S5: process {number}: its journal was not closed"
    for _, text in run.logged:
        if CREDENTIALS.api_secret in text or CREDENTIALS.api_token in text:
            yield f"S5: a secret was logged: {text}"
    yield from _check_closed(whole)


def _check_closed(whole: ScopeRun) -> Iterator[str]:
    """What an orderly end leaves in the journal: what is on the book is held, what was not left is not."""
    life, contents = whole.lives[0], whole.at_end
    if life.dead or contents is None:
        return
    known, on_book = _held_in(contents), {order.id for order in whole.run.orders.values() if order.status.active}
    for held in whole.held:
        if held.forgotten is None and held.order.id in on_book and held.request not in known:
            yield f"S2: {held.request} is on the book, and the journal does not hold it any more"
    closed = bool(contents.sessions) and contents.sessions[-1].closed_at is not None
    if closed and not life.failures and whole.disk.failed == 0:
        left = {outcome.request for each in whole.scopes if each.report for outcome in each.report.left}
        if forgotten := known - left:
            after = f"{Timings().journal_closing:g} s after the end"
            yield f"S5: {forgotten} stay held in the journal {after}, and were not left"
