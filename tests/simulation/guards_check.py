"""The invariants of journals that others can take over, checked after a run; G1 to G10 are those of the design.

G2, G3 and G6 are looked at while the run lasts (``guards_run.py``), where the database commits and intents wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from trio_cancel import TakenOver
from trio_cancel._journal.lease import LeaseState

from .guards_run import ADDRESS, Bot, GuardRun, Held, Taking
from .harness import CREDENTIALS

CLOCKS = 0.98
"""The part of a lease that a taker has waited for at least, whatever its clock's rate."""


def check_guards(whole: GuardRun) -> list[str]:
    """Return what was violated."""
    return [
        *whole.wrong,
        *_read(whole),
        *_taken(whole),
        *_off_book(whole),
        *_others(whole),
        *_told(whole),
        *_secret(whole),
    ]


def _read(whole: GuardRun) -> Iterator[str]:
    """G1: every ``add`` that returned is in what the next taker reads."""
    for held in whole.held:
        bot = held.bot
        takings = _takings_after(whole, bot)
        if not takings or whole.lost_by_failover:
            continue
        first = min(takings, key=lambda each: each.epoch)
        let_go = held.let_go is not None and held.let_go < first.at
        ended = bot.leaving is not None and bot.leaving < first.at
        canceled = held.id in whole.canceled_by and whole.canceled_by[held.id][1] < first.at
        read = whole.read.get((bot.journal, first.epoch))
        if read is None or let_go or ended or canceled:
            continue
        again = held.request.external_id is not None and any(
            other is not held and other.request == held.request for other in whole.held if other.bot is bot
        )
        if held.request.key not in read and not again:
            yield f"G1: {held.request} was added at {held.added:.3f}, and epoch {first.epoch} did not read it"


def _takings_after(whole: GuardRun, bot: Bot) -> list[Taking]:
    """Return the take-overs of a bot's journal; a fail-over may have lost earlier epochs, whose numbers come again."""
    entered = math.inf if bot.entered is None else bot.entered
    theirs = [each for each in whole.takings if each.journal == bot.journal]
    since = max((each.at for each in theirs if each.epoch == bot.epoch and each.at <= entered), default=0.0)
    return [each for each in theirs if each.epoch > bot.epoch and each.at > since]


def _taken(whole: GuardRun) -> Iterator[str]:
    for each in whole.takings:
        if not each.live or (whole.lost_by_failover and each.epoch):
            continue
        what = f"{each.journal}: epoch {each.epoch} began at {each.at:.3f}"
        if each.locked - each.beaten < CLOCKS * each.lease:
            yield f"G4: {what}, {each.locked - each.beaten:.3f} s after the last beat"
        elif each.here and (heard := _could_be_heard(whole, each)) < CLOCKS * each.lease:
            yield f"G4: {what}, when its session could have been heard for {heard:.3f} s: the database was away"
        if each.was is LeaseState.SURE:
            yield f"G5: {what}, and the session before was sure of its lease"


def _could_be_heard(whole: GuardRun, taking: Taking) -> float:
    """Return for how long a session had not beaten while the database was there, without a break.

    What counts is the time until the taker had the row: from then on no beat comes, but its commit may wait for long.
    """
    since, until = taking.beaten, taking.locked
    for begin, end in whole.away:
        if begin < taking.locked <= end:  # it was locked just as the database went away
            until = min(until, begin)
        elif end < taking.locked:
            since = max(since, end)
    return until - since


def _off_book(whole: GuardRun) -> Iterator[str]:
    """G7: what was held by who is gone is off the book, or reported."""
    reported: set[tuple[str, str]] = set()  # to the program; what a guard left is still left in the journal
    for bot in whole.bots:
        own = [*bot.told, None if bot.dead else getattr(bot.error, "report", None)]  # the dead are told nothing
        reported |= {(bot.journal, outcome.request.key) for report in own if report for outcome in report.left}
    for held in whole.held:
        order, bot = whole.orders.get(held.id), held.bot
        if order is None or not order.status.active or held.kept or not bot.gone or whole.lost_by_failover:
            continue
        key = held.request.key
        if key not in whole.left.get(bot.journal, ()) and not _is_held_again(whole, held):
            said = "was reported once" if (bot.journal, key) in reported else "nobody has told of it"
            if said != "was reported once":
                yield f"G7: {held.request} ({held.id}) is on the book, and {said}"
        elif whole.names.get(key, bot.journal) != bot.journal:
            continue  # another program's `add` had the name last, be it that nobody told that program; it stays left
        elif _could_be_seen_to(whole, bot) and not _is_held_again(whole, held):
            yield f"G7: {held.request} ({held.id}) is on the book, though a guard had long enough"


def _could_be_seen_to(whole: GuardRun, bot: Bot) -> bool:
    """Return whether the guard had its time, and nobody else has the journal."""
    alive = any(each.journal == bot.journal and each is not bot and not each.gone for each in whole.bots)
    return not alive


def _is_held_again(whole: GuardRun, held: Held) -> bool:
    return any(
        other.request == held.request and other.bot is not held.bot and other.bot.epoch > held.bot.epoch
        for other in whole.held
        if other.bot.journal == held.bot.journal
    ) or any(other.request == held.request and other.bot.journal != held.bot.journal for other in whole.held)


def _others(whole: GuardRun) -> Iterator[str]:
    """G8: nothing is canceled but by who held it, and by who has taken that one's journal over."""
    bots = {bot.process.name: bot for bot in whole.bots}
    for order, (who, at) in whole.canceled_by.items():
        owner = whole.owners.get(order)
        if owner is None or who == owner.process.name:
            continue
        taken = any(
            each.journal == owner.journal and each.epoch > owner.epoch and each.at <= at for each in whole.takings
        )
        other = bots.get(who)
        if other is not None and _asked_before_it_was_told(whole, other, whole.orders[order].external_id, at):
            continue
        if _was_held_later(whole, owner, whole.orders[order].external_id, at):
            continue
        if not taken or (other is not None and (other.journal != owner.journal or other.epoch < owner.epoch)):
            yield f"G8: {order}, an order of {owner.process.name} (epoch {owner.epoch}), was canceled by {who}"


def _asked_before_it_was_told(whole: GuardRun, bot: Bot, name: str | None, at: float) -> bool:
    """Return whether the program itself had a name canceled before its session could know that it was taken over.

    No cancel waits for the database: by then the name may be that of a successor's order.
    """
    return (bot.over is None or at < bot.over) and any(
        held.let_go is not None and held.let_go <= at and not held.kept
        for held in whole.held
        if held.bot is bot and name is not None and held.request.external_id == name
    )


def _was_held_later(whole: GuardRun, owner: Bot, name: str | None, at: float) -> bool:
    """Return whether another program held a name after its owner, and had its journal taken over: the last one has it.

    Two programs that use one name at the same time are a fault of theirs, which the guide names.
    """
    mine = [held.added for held in whole.held if held.bot is owner and held.request.external_id == name]
    if name is None or not mine:
        return False
    return any(
        held.request.external_id == name
        and held.bot is not owner
        and held.added > min(mine)
        and any(
            each.journal == held.bot.journal and each.epoch > held.bot.epoch and each.at <= at for each in whole.takings
        )
        for held in whole.held
    )


def _told(whole: GuardRun) -> Iterator[str]:
    """G9: who is taken over is told."""
    for bot in whole.bots:
        if bot.dead:
            continue
        last = max((each.at for each in _takings_after(whole, bot)), default=None)
        if bot.over is not None and bot.over < whole.looked - 13:
            if bot.left is None or bot.left > whole.looked:
                yield f"G9: {bot.process.name} was taken over, and its program goes on"
            elif not isinstance(bot.error, TakenOver):
                yield f"G9: {bot.process.name} was taken over, and its program was told {bot.error!r}"
        elif not bot.gone and last is not None and last < whole.looked - 15 and not whole.lost_by_failover:
            yield f"G9: {bot.process.name} was taken over, and has not noticed"


def _secret(whole: GuardRun) -> Iterator[str]:
    """G10: nothing that is secret is in a row or in the log."""
    secrets = (CREDENTIALS.api_secret, CREDENTIALS.api_token, ADDRESS.partition(":")[2].split(":")[1].split("@")[0])
    for secret in secrets:
        if secret in whole.rows:
            yield "G10: a secret is in a row of the database"
        if any(secret in text for _, text in whole.logged):
            yield "G10: a secret is in the log"
