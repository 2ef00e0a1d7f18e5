"""The entry point: ``open_trading_ws`` and the object that it yields.

Nothing here waits for the network. A single cancel hands its order to the engine (which may have it written at once,
see ``_session.writer``) and waits for the outcome (see ``_cancels.single``). If it is cancelled there, the order is
withdrawn if it has not been written; otherwise it is still tracked.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeGuard, overload

import trio

from trio_cancel._cancels.batch import Batch, BatchSource, Input, Invalid, check_invalid
from trio_cancel._cancels.open_orders import QUIET, WITHIN, OpenOrders, Sweep
from trio_cancel._cancels.scope import OrderScope
from trio_cancel._cancels.single import Channels, cancel_one
from trio_cancel._cancels.stream import CancelStream, run_stream
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._engine.rate import Limit, Pacer, limit_of, pacer_of
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel._journal.address import check_address, server_of
from trio_cancel._journal.lease import LEAST, MOST, LeaseState
from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.proxy import Choice, Tunnel, choose_proxy
from trio_cancel._net.stream import Dial
from trio_cancel._session.connection import ConnectOptions
from trio_cancel._session.lookups import OpensLookup
from trio_cancel._session.session import Session, SessionState, run_session
from trio_cancel._trio.environment import Environment
from trio_cancel._trio.running import check_trio
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import ConfigurationError
from trio_cancel._values.models import TOKEN_FIELD_VARIABLE, TOKEN_FIELDS, CanceledOrder, CancelRequest, Credentials
from trio_cancel._values.observer import Observer, Statistics, logger
from trio_cancel._values.open_report import OpenFilter, OpenReport
from trio_cancel._values.order_state import OrderLookup, OrderState
from trio_cancel._values.outcomes import Outcome
from trio_cancel._values.report import CancelReport
from trio_cancel._values.timings import Timings

if TYPE_CHECKING:
    from trio_cancel._journal.journal import Journal
    from trio_cancel._journal.reading import JournalOrder

DEFAULT_URL = "wss://ws-api.ripio.com"
"""The venue (WebSocket API, general information)."""
URL_VARIABLE = "TRIO_CANCEL_URL"

OpenPace: TypeAlias = "Callable[[], AbstractAsyncContextManager[Limit]]"
"""Begins to share an account's rate for a session, once its journal is open."""


class OpenJournal(Protocol):
    """Opens a journal for a session, given the prefix of its request ids and its wall clock."""

    def __call__(
        self, prefix: str, wall: Callable[[], float], *, timings: Timings
    ) -> AbstractAsyncContextManager[Journal]: ...


class TradingWS:
    """An open session, made by :func:`open_trading_ws`. Any task may use it while its block lasts.

    It cancels orders: one at a time (:meth:`cancel`, :meth:`try_cancel`), many (:meth:`cancel_many`, :meth:`batch`,
    :meth:`open_cancel_stream`), those that a block holds (:meth:`open_order_scope`), those that an earlier session left
    behind (:meth:`resume`), and those that the venue lists as open (:meth:`cancel_open`).
    """

    def __init__(self, session: Session, policy: RetryPolicy) -> None:
        self._session = session
        self._policy = policy
        self._channels = Channels()
        self._resuming = trio.Lock()

    def __repr__(self) -> str:
        return f"<TradingWS {self._session.state.value}>"

    @property
    def state(self) -> SessionState:
        """``connecting``, ``connected``, ``reconnecting``, ``failed`` or ``closed``."""
        return self._session.state

    @property
    def failure(self) -> BaseException | None:
        """Why the state is ``failed``."""
        return self._session.failure

    @property
    def journal_failed(self) -> bool:
        """True if there is a journal and it cannot record everything now; cancels go on, new holds are refused."""
        return self._session.journal_failed()

    @property
    def lease(self) -> LeaseState | None:
        """The state of this session's claim to its journal; None unless it is in a database, where others can take it.

        While it is ``uncertain``, no new order is held, and cancels go on. ``taken_over`` is final: the blocks of order
        scopes have been cancelled, and orders are canceled by the venue's ids only.
        """
        journal = self._session.journal
        return None if journal is None else journal.lease

    @property
    def guarded(self) -> bool | None:
        """Whether a guard with this account's credentials watches the journal, and cancels what is held if we die.

        None unless the journal is in a database. After a guard has started, it takes up to two of our beats until this
        is known; after it has ended, 5 s.
        """
        journal = self._session.journal
        return None if journal is None else journal.guarded

    @property
    def left_behind(self) -> tuple[JournalOrder, ...]:
        """The orders that earlier sessions left in this journal, and that are not settled or dismissed yet.

        Each may be on the book, and nobody deals with it until you do: with :meth:`resume` or :meth:`dismiss`. Values
        are frozen; read the property again for the orders that are left then. Their ``holds`` and ``cancels`` are as of
        the opening of this session. Empty without a journal.
        """
        journal = self._session.journal
        return () if journal is None else journal.left.orders

    async def resume(self, *, old_external_ids: bool = False) -> CancelReport:
        """Cancel what is in :attr:`left_behind`, as ``trio-cancel resume`` does; report what happened to each order.

        If the venue does not know a held order, it is asked again for 10 s, because the order's create may still be on
        its way. The same holds if only an external id is known and that id is closed: see the guide on the journal.
        After that such an order counts as dealt with, and its outcome says what is known.

        Two kinds of orders are not canceled but reported as :class:`NotSent` with the reason: an order whose external
        id is older than an hour, because it may name a newer order; and an order that this session has held itself
        since it was opened. They stay in :attr:`left_behind`.

        Args:
            old_external_ids: also cancel by external ids older than an hour. Only if you never use one again.

        Returns:
            An outcome for each order, empty if nothing was left. Orders that were not canceled for a reason of ours
            come last. It comes within the bound of :meth:`cancel_many`, plus 10 s if something is asked for again.

        Raises:
            ConfigurationError: the session has no journal.
            SessionClosed: the session's block has ended.

        You may call it again, also while it runs: the second call waits for the first, and deals with what is left
        then. With a lookup, orders are looked up as after any cancel. If the journal cannot be written, cancels go on,
        and ``report.journal_failed`` says so.

        Cancelled: no further order is written, and the report is lost. What has settled stays settled; the rest stays
        in :attr:`left_behind`. After a crash the same is true for the next session.
        """
        # Imported here, because only users of a journal need it.
        from trio_cancel._cancels.resuming import resume

        if not isinstance(old_external_ids, bool):
            raise ConfigurationError(f"old_external_ids must be True or False, not {old_external_ids!r}.")
        journal = self._journal()
        async with self._resuming:
            self._session.check_open()
            return await resume(self._session, journal, self._policy, old_external_ids=old_external_ids)

    @overload
    async def dismiss(self, id: str | CancelRequest, *, external_id: None = None) -> None: ...
    @overload
    async def dismiss(self, id: None = None, *, external_id: str) -> None: ...
    async def dismiss(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        """Say that an order in :attr:`left_behind` needs nothing more: you have dealt with it, or want it to stay.

        Nothing is sent. The order leaves :attr:`left_behind` at once, and for good when this returns: then the journal
        has recorded it on the disk.

        Args:
            id: the venue's order id, or a whole request, such as ``order.request`` of one in :attr:`left_behind`.
            external_id: your own id of the order, instead.

        Raises:
            InvalidRequest: it is not in :attr:`left_behind`, or :meth:`resume` is canceling it now.
            ConfigurationError: the session has no journal.
            JournalError: the journal cannot record it now; it will, once it can be written.
            SessionClosed: the session's block has ended.

        Cancelled: it is dismissed, and that is recorded soon.
        """
        request = CancelRequest.of(id, external_id)
        await self._journal().dismiss(request)
        await trio.lowlevel.checkpoint()

    def _journal(self) -> Journal:
        self._session.check_open()
        journal = self._session.journal
        if journal is None:
            raise ConfigurationError("This session has no journal: pass journal=… to open_trading_ws().")
        return journal

    @property
    def clock(self) -> OffsetInterval | None:
        """The bounds of the venue's clock minus ours, as far as its answers showed; None if they showed nothing."""
        return self._session.clock

    def statistics(self) -> Statistics:
        """Return what the session has seen so far, as a frozen value."""
        return self._session.engine.statistics()

    @overload
    async def look_up(self, id: str | CancelRequest, *, external_id: None = None) -> OrderState: ...
    @overload
    async def look_up(self, id: None = None, *, external_id: str) -> OrderState: ...
    async def look_up(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> OrderState:
        """Ask for the state of an order now. Needs a session that was opened with ``lookup=…``.

        A final status (canceled, executed) is true for good. An active one may be outdated when it arrives: see the
        guide on lookups. By external id, the answer is about the order that has it now, which may be a newer one.

        Args:
            id: the venue's order id, or a whole request.
            external_id: your own id of the order, instead.

        Returns:
            The state of this order.

        Raises:
            InvalidRequest: not exactly one of the two, or no usable string. Nothing was sent.
            ConfigurationError: the session has no lookup.
            LookupFailed: the state could not be found out; this says nothing about the order.
            SessionClosed: the session's block has ended.

        It waits while cancels need the account's limit. Cancelled: nothing stays behind.
        """
        request = CancelRequest.of(id, external_id)
        self._session.check_open()
        lookups = self._session.lookups
        if lookups is None:
            raise ConfigurationError("This session has no lookup: pass lookup=RestLookup() to open_trading_ws().")
        return await lookups.look_up(request)

    async def ping(self) -> float:
        """Send a WebSocket ping and return the seconds until its pong.

        Raises:
            trio.BrokenResourceError: there is no connection now.

        Cancelled: the pong is ignored. There is no deadline in here; use your own scope.
        """
        self._session.check_open()
        return await self._session.ping()

    @overload
    async def cancel(self, id: str | CancelRequest, *, external_id: None = None) -> CanceledOrder: ...
    @overload
    async def cancel(self, id: None = None, *, external_id: str) -> CanceledOrder: ...
    async def cancel(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> CanceledOrder:
        """Cancel one order; return it as the venue canceled it, or raise.

        This is the same as ``(await ws.try_cancel(…)).unwrap()``.

        Args:
            id: the venue's order id, or a whole request.
            external_id: your own id of the order, instead.

        Raises:
            InvalidRequest: not exactly one of the two, or no usable string. Nothing was sent.
            OrderNotActive, OrderNotFound, VenueError: the venue's refusals (``_venue/contract.md``, "Errors").
            OutcomeUnknown: it may or may not be off the book.
            CancelNotSent: the venue cannot have seen the request.
            SessionClosed: the session's block has ended.

        Cancelled: see :meth:`try_cancel`.
        """
        return (await self.try_cancel(CancelRequest.of(id, external_id))).unwrap()

    @overload
    async def try_cancel(self, id: str | CancelRequest, *, external_id: None = None) -> Outcome: ...
    @overload
    async def try_cancel(self, id: None = None, *, external_id: str) -> Outcome: ...
    async def try_cancel(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> Outcome:
        """Cancel one order; return its outcome. It never raises because of what the venue says.

        Args:
            id: the venue's order id, or a whole request.
            external_id: your own id of the order, instead.

        Returns:
            One of the six outcomes. It comes within ``give_up_after`` of the first write (plus a small bound). Before
            that, the window and the pace may hold the order back while the venue is alive; then only your own scope
            bounds the wait. If the venue shows no sign of life, the outcome comes within ``give_up_after`` + 5 s of
            this call or of the last sign of life, whichever was later; see :func:`open_trading_ws`.

        Raises:
            InvalidRequest: not exactly one of the two, or no usable string. Nothing was sent.
            SessionClosed: the session's block has ended.

        Cancelled: a request that has not been written is withdrawn. One that is being written is finished, so the order
        may still be canceled. ``trio.Cancelled`` propagates at once.
        """
        request = CancelRequest.of(id, external_id)
        self._session.check_open()
        return await cancel_one(self._session, request, self._policy, self._channels)

    def batch(self, requests: Iterable[str | CancelRequest], *, invalid: Invalid = "raise") -> Batch:
        """Make a bulk cancel that you can interrupt and that still accounts for every order. Nothing is sent yet.

        While it runs, the bound of :meth:`cancel_many` applies; its time counts from the call of ``run``.

        Args:
            requests: order ids or requests; any finite iterable. A collection is copied now. The first 1 000 items are
                read and checked now, the rest by :meth:`Batch.run`, in slices, before anything is sent.
            invalid: what to do with an item that names no order: ``"raise"`` refuses the whole input, ``"report"``
                cancels the rest and records the item in ``report.invalid``.

        Raises:
            InvalidRequest: a bare string or a mapping; with ``invalid="raise"`` an item that names no order, with its
                index. Beyond the first 1 000 items, :meth:`Batch.run` raises it.
            ConfigurationError: another word for ``invalid``.
            SessionClosed: the session's block has ended.
        """
        self._session.check_open()
        check_invalid(invalid)
        return Batch(BatchSource(Input(requests, invalid), self._policy, self._session))

    async def cancel_many(self, requests: Iterable[str | CancelRequest], *, invalid: Invalid = "raise") -> CancelReport:
        """Cancel many orders; return one outcome for each, in the order given.

        The number in flight is bounded, and it goes as fast as the venue allows. It never raises because of one order.
        If the venue shows no sign of life, it returns within ``give_up_after`` + 5 s of this call or of the last sign
        of life, whichever was later, no matter how many orders there are; see :func:`open_trading_ws`. While the venue
        answers, only your own scope bounds it.

        Args:
            requests: order ids or requests; any finite iterable. It is read to the end before anything is sent, in
                slices, so that other tasks can run. An order that appears twice is canceled once.
            invalid: what to do with an item that names no order: ``"raise"`` refuses the whole input, ``"report"``
                cancels the rest and records the item in ``report.invalid``.

        Raises:
            InvalidRequest: a bare string or a mapping; with ``invalid="raise"`` an item that names no order, with its
                index. Nothing was sent.
            ConfigurationError: another word for ``invalid``.
            SessionClosed: the session's block has ended.

        Cancelled: no further order is written, and the report is lost; if you need it, use :meth:`batch`.
        """
        return await self.batch(requests, invalid=invalid).run()

    def open_cancel_stream(
        self,
        requests: Iterable[str | CancelRequest] | AsyncIterable[str | CancelRequest],
        *,
        invalid: Invalid = "raise",
    ) -> AbstractAsyncContextManager[CancelStream]:
        """Cancel an endless input, in constant memory: ``async with ws.open_cancel_stream(ids) as outcomes``.

        If the venue shows no sign of life, an item has its outcome within ``give_up_after`` + 5 s of its arrival or of
        the last sign of life, whichever was later; see :func:`open_trading_ws`. An item that the input had ready (from
        a list, a file, or a filled channel) arrived with the item before it, the first one with the opening of the
        stream. An item that the stream had to wait for arrived when the stream got it.

        Args:
            requests: order ids or requests; any sync or async iterable. Items are taken when there is room for them,
                and are not compared with each other.
            invalid: what to do with an item that names no order: ``"raise"`` ends the stream there, ``"report"`` goes
                on and records the item in ``outcomes.invalid``.

        Returns:
            An async context manager that yields a :class:`CancelStream`: ``async for outcome in outcomes`` yields the
            outcomes in the order of completion. Leaving the block early stops the intake; ``outcomes.unsettled`` then
            names the orders that were in flight.

        Raises:
            InvalidRequest: a bare string or a mapping; while iterating, with ``invalid="raise"``: an item that names no
                order, after the outcomes of the items before it.
            ConfigurationError: another word for ``invalid``.
            SessionClosed: the session's block has ended.
        """
        self._session.check_open()
        check_invalid(invalid)
        return run_stream(requests, self._policy, self._session.engine, invalid)

    async def cancel_open(
        self,
        *,
        pair: str | None = None,
        side: Literal["buy", "sell"] | None = None,
        everything: bool = False,
        quiet_for: float = QUIET,
        within: float = WITHIN,
        dry_run: bool = False,
    ) -> OpenReport:
        """Cancel what the venue lists as open, for when the ids are lost; you say which orders you mean.

        It lists the account's open orders over REST and cancels the ones you mean by the venue's ids, no matter who
        placed them. It lists again every 2 s, until no list has brought anything new for ``quiet_for`` seconds. So it
        also cancels orders that are placed while it runs: stop your bots first. If the list goes on showing an order
        after it was canceled, it is not canceled again; an order that may still be on the book is tried three times in
        all. It needs a session with ``lookup=RestLookup()``.

        Args:
            pair: only orders of this market, such as ``BTC_BRL``.
            side: only ``"buy"`` or ``"sell"``.
            everything: all open orders of the account, instead of ``pair`` and ``side``.
            quiet_for: seconds. Orders that the venue's list shows later than that are missed.
            within: seconds after which it stops listing; it still waits for orders that are under way then.
            dry_run: list once and cancel nothing.

        Returns:
            What was found and what happened to each order. It never says that the book is empty: see
            :class:`trio_cancel.types.OpenReport`. If the list cannot be read, the orders that are known are canceled
            anyway, and ``report.failure`` says why the list is not complete.

        Raises:
            ConfigurationError: no orders were selected, the selection contradicts itself, a time is not usable, or the
                session has no lookup that lists open orders. Nothing was contacted.
            SessionClosed: the session's block has ended.

        Cancelled: no further order is written, and the report is lost.
        """
        meant = OpenFilter.of(pair, side, everything)
        quiet, longest = _seconds("quiet_for", quiet_for), _seconds("within", within)
        if longest < quiet:
            raise ConfigurationError(f"within ({longest:g} s) must not be shorter than quiet_for ({quiet:g} s).")
        if not isinstance(dry_run, bool):
            raise ConfigurationError(f"dry_run must be True or False, not {dry_run!r}.")
        session = self._session
        session.check_open()
        lookups = session.lookups
        if lookups is None or not lookups.lists_open:
            what = "no lookup" if lookups is None else "a lookup that cannot list open orders"
            raise ConfigurationError(f"This session has {what}: pass lookup=RestLookup() to open_trading_ws().")
        await trio.lowlevel.checkpoint_if_cancelled()  # if the caller is cancelled already, nothing is written
        sweep = Sweep(meant, quiet, trio.current_time())
        orders = OpenOrders(sweep, lookups.open_orders, session.wall, longest, once=dry_run)
        if dry_run:
            async for _ in orders:
                pass
        else:
            async with run_stream(orders, self._policy, session.engine) as outcomes:
                async for outcome in outcomes:
                    sweep.settled(outcome, trio.current_time())
        return sweep.report(session.journal_failed())

    def open_order_scope(self, *, grace: float = 30.0, settle: float = 10.0) -> OrderScope:
        """Open a scope that no order outlives: ``async with ws.open_order_scope() as orders``.

        When the block exits, however it exits, every order that was added and not discarded is canceled, shielded from
        the cancellation that may have ended the block.

        Args:
            grace: seconds that this may take, even if the venue shows no sign of life: in that case every order is
                written once before they are over, as far as a connection accepts it. Within the grace,
                ``reply_timeout`` is at most a third of it, and requests are tried again even if the session was opened
                with ``retry=False``.
            settle: seconds after the block's exit for which "not found" is tried again, because the order's create may
                still be on its way; unless ``orders.placed(…)`` has said that the venue has it.

        Raises:
            OrdersLeft: at the exit, if the block ended normally or by cancellation and an order may still be on the
                book; it carries the report. Another exception propagates with a note that names what is left.
            ConfigurationError: ``grace`` or ``settle`` is not a positive number of seconds.
            SessionClosed: the session's block has ended.

        Cancelled: during the exit, it goes on until ``grace`` is over; a second Ctrl-C ends it early.
        """
        self._session.check_open()
        session = self._session
        return OrderScope(session, self._policy, _seconds("grace", grace), _seconds("settle", settle), session.journal)


def _is_seconds(value: object) -> TypeGuard[float]:
    """Return True for a number of seconds that a clock can hold: about thirty years either way."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e9


def _seconds(name: str, value: object) -> float:
    if not _is_seconds(value) or value <= 0:
        raise ConfigurationError(f"{name} must be a finite number of seconds greater than 0, not {value!r}.")
    return float(value)


def open_trading_ws(
    url: str | None = None,
    *,
    credentials: Credentials | None = None,
    ssl_context: ssl.SSLContext | None = None,
    dial: Dial | None = None,
    proxy: str | Literal[True] | None = True,
    allow_insecure: bool = False,
    connect_timeout: float = 10.0,
    reply_timeout: float = 12.0,
    give_up_after: float = 30.0,
    retry: bool = True,
    pacer: Pacer | None = None,
    clock_offset: float | Literal["auto"] = 0.0,
    token_field: Literal["api_token", "apiToken"] | None = None,
    journal: str | os.PathLike[str] | None = None,
    lease: float = 3.0,
    observer: Observer | None = None,
    lookup: OrderLookup | OpensLookup | None = None,
    look_up_closed: bool = False,
) -> AbstractAsyncContextManager[TradingWS]:
    """Open a session with the venue, as an async context manager.

    Args:
        url: ``wss://…``; if None, from ``TRIO_CANCEL_URL``, or ``wss://ws-api.ripio.com`` if that is not set.
        credentials: if None, from ``RIPIO_API_TOKEN`` and ``RIPIO_API_SECRET``.
        ssl_context: for ``wss``; if None, the system's trusted certificates.
        dial: an async callable that returns a connected ``trio.abc.Stream``, called instead of opening a TCP
            connection: as ``dial(host, port)`` if it takes two arguments, otherwise as ``dial()``. If the url says
            ``wss``, TLS runs over this stream.
        proxy: url of a proxy to connect through: ``http://[user:password@]host:port`` (CONNECT; ``https://`` if it
            speaks TLS itself) or ``socks5://…`` (needs the extra ``proxy``). It resolves the venue's name, and TLS goes
            through it end to end. True uses the proxy of the environment (``HTTPS_PROXY``, ``ALL_PROXY``,
            ``NO_PROXY``), unless the url is on this machine or ``dial`` is given; if that proxy cannot be used, a
            warning is logged and the connection is direct. None connects directly.
        allow_insecure: accept a plain ``ws://`` url to any host. The token is then sent in clear text.
        connect_timeout: seconds for opening a connection, from name resolution to the WebSocket upgrade.
        reply_timeout: seconds after its write from which a request counts as unanswered.
        give_up_after: seconds after the first write until an order is given up. The clock stops while the venue is
            alive and the pace or the window holds the order back. In a silence it runs for every order, from its call
            or from the last sign of life, whichever was later. So every cancel, of one order or of very many, has all
            its outcomes at most 5 s after that (plus the time of a lookup, if there is one). A sign of life is an
            answer to one of our requests that says something, other than a 5xx, 408 or 429; pongs and new connections
            do not count. In a silence, each waiting order is written once before its time is over, beyond the window
            but within a known pace, as far as a connection accepts it.
        retry: False allows one attempt per order.
        pacer: your own rate limit, perhaps shared between sessions of one account, also on several machines if their
            journals are in one database. If None, the session goes as fast as the venue allows, which it finds out with
            care.
        clock_offset: seconds to add to our clock before signing. ``"auto"`` applies the smallest correction that agrees
            with the venue's ``Date`` header, and only if the clocks are certain to differ.
        token_field: the name under which requests carry the token; if None, from ``TRIO_CANCEL_TOKEN_FIELD``, or
            ``"api_token"``. The venue's documents also have ``"apiToken"``: try that if it refuses good credentials.
        journal: path of a file (SQLite; created if it is missing). Holds and intents are durable there before they take
            effect, and attempts and outcomes follow. One session writes it at a time, and one account owns it. A forked
            child cannot write it, and does not keep its parent from releasing it. What earlier sessions left in it is
            logged as a warning and listed in ``ws.left_behind``; ``await ws.resume()`` cancels it. Or a journal in a
            PostgreSQL database, ``"postgresql://…/database?journal=NAME"`` (needs the extra ``postgres``): then other
            machines can take it over once this session's lease has run out, and an intent waits for the database for 1
            s at most.
        lease: seconds without a word to the database after which others may take over its journal, from 1 to 20. The
            session records three times per lease that it is alive, and holds nothing new once it has been unable to for
            0.9 of the lease.
        observer: its methods are called when something happens.
        lookup: finds out the state of an order: a ``trio_cancel.lookup.RestLookup``, or any async callable from a
            :class:`CancelRequest` to an :class:`OrderState` (see :class:`OrderLookup`). If a cancel would end as
            :class:`Unknown` or :class:`NotFound`, the order is looked up first, for at most 5 s after its time. This
            takes longer only if cancels or the account's limit hold lookups back, or if very many orders have to be
            looked up and answers keep coming.
        look_up_closed: also look up orders that are :class:`AlreadyClosed`, for how much of them was executed. Needs
            ``lookup``.

    Returns:
        An async context manager that yields a :class:`TradingWS`. An exception raised in its block propagates as it is.
        Leaving the block takes at most 2 s with any peer; what is still in flight then is Unknown. Order scopes that
        another task has left open are ended first, within their grace. A journal whose disk does not answer adds at
        most 2 s; when the disk answers, the file is closed and can be opened again.

    Raises:
        ConfigurationError: at once, if the url, the credentials or a keyword cannot be used; on entering, if an event
            loop other than trio is running (asyncio).
        JournalError: on entering, if the journal cannot be used, or could not be opened within 30 s. The venue was not
            contacted, and a refused file was not changed.
        TakenOver: (a JournalError) on leaving, if the journal was taken over and no order scope has raised it.
        HandshakeFailed: on entering, if the first connection fails; later ones are tried again.

    Cancelled: while entering, nothing stays open. With a journal on a disk that does not answer, this takes up to
    0.5 s, and the file is closed when the disk answers. A cancel scope around it ends the block first, and the
    connection only after the block's own clean-up has run.
    """
    if url is None:
        url = os.environ.get(URL_VARIABLE) or DEFAULT_URL
    if not isinstance(allow_insecure, bool):
        raise ConfigurationError(f"allow_insecure must be True or False, not {allow_insecure!r}.")
    endpoint = parse_endpoint(url, allow_insecure=allow_insecure)
    if credentials is None:
        credentials = Credentials.from_env()
    elif not isinstance(credentials, Credentials):
        raise ConfigurationError(f"credentials must be Credentials(token, secret), not {type(credentials).__name__}.")
    if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
        raise ConfigurationError(f"ssl_context must be an ssl.SSLContext, not {type(ssl_context).__name__}.")
    if pacer is not None and not isinstance(pacer, Pacer):
        raise ConfigurationError(f"pacer must be a Pacer(rate, burst), not {type(pacer).__name__}.")
    if dial is not None and not callable(dial):
        raise ConfigurationError(f"dial must be an async callable that returns a stream, not {type(dial).__name__}.")
    choice, own_dial = Choice(), dial
    if dial is None:
        choice = choose_proxy(endpoint, proxy, os.environ)
    elif proxy is not True and proxy is not None:
        raise ConfigurationError("A connection is made by dial or through a proxy: give one of them, not both.")
    if choice.unused is not None:
        logger.warning("%s", choice.unused)
    if choice.proxy is not None:
        dial = Tunnel(choice.proxy)
    if journal is not None:
        check_address(journal)
    if pacer is not None and pacer.shared and (journal is None or server_of(journal) is None):
        raise ConfigurationError(
            "A pacer with shared=True shares through the database that the journal is in: pass "
            'journal="postgresql://…?journal=NAME", or give each session its part of the rate.'
        )
    if not _is_seconds(lease) or not LEAST <= lease <= MOST:
        raise ConfigurationError(f"lease must be a number of seconds from {LEAST:g} to {MOST:g}, not {lease!r}.")
    if lookup is not None and not callable(lookup) and not hasattr(lookup, "opened"):
        raise ConfigurationError(
            f"lookup must be a RestLookup or an async callable that returns an OrderState, not {type(lookup).__name__}."
        )
    if not isinstance(look_up_closed, bool):
        raise ConfigurationError(f"look_up_closed must be True or False, not {look_up_closed!r}.")
    if look_up_closed and lookup is None:
        raise ConfigurationError("look_up_closed=True needs a lookup: pass lookup=RestLookup(), too.")
    auto = clock_offset == "auto"
    if not auto and not _is_seconds(clock_offset):
        raise ConfigurationError(f'clock_offset must be a number of seconds or "auto", not {clock_offset!r}.')
    if not isinstance(retry, bool):
        raise ConfigurationError(f"retry must be True or False, not {retry!r}.")
    policy = RetryPolicy(_seconds("reply_timeout", reply_timeout), _seconds("give_up_after", give_up_after), retry)
    return open_session(
        ConnectOptions(endpoint, ssl_context, dial, _seconds("connect_timeout", connect_timeout)),
        credentials,
        policy,
        Environment(),
        pacer=pacer,
        pace=None if pacer is None or not pacer.shared or journal is None else _sharing(journal, pacer),
        correct_clock=auto,
        correction=0.0 if isinstance(clock_offset, str) else float(clock_offset),
        token_field=token_field_of(token_field),
        journal=None if journal is None else journal_at(journal, endpoint, credentials, float(lease)),
        lookup=lookup,
        look_up_closed=look_up_closed,
        lookups_by=(own_dial, proxy),
        observer=observer,
    )


def token_field_of(given: str | None) -> str:
    """Return the name under which requests carry the token: the one that was given, else that of the environment.

    Raises:
        ConfigurationError: it is neither of the two names.
    """
    name = "token_field"
    if given is None:
        name, given = TOKEN_FIELD_VARIABLE, os.environ.get(TOKEN_FIELD_VARIABLE) or TOKEN_FIELDS[0]
    if given not in TOKEN_FIELDS:
        # The value is not shown: it may be the token itself, put there by mistake.
        raise ConfigurationError(f"{name} must be {' or '.join(TOKEN_FIELDS)}: the name of the field, not the token.")
    return given


def journal_at(
    path: str | os.PathLike[str], endpoint: Endpoint, credentials: Credentials, lease: float = 3.0
) -> OpenJournal:
    """Return a function that opens the journal at an address, for a session of this account."""
    # Imported here, because only users of a journal need it: SQLite would be a tenth of the package's import time.
    from trio_cancel._journal.opening import open_journal
    from trio_cancel._journal.store import Account

    return partial(open_journal, path, Account.of(endpoint, credentials), lease=lease)


def _sharing(journal: str | os.PathLike[str], pacer: Pacer) -> OpenPace:
    def open_it() -> AbstractAsyncContextManager[Limit]:
        from trio_cancel._journal.pace import open_shared  # the journal is open by now, so its driver is there

        server = server_of(journal)
        assert server is not None
        return open_shared(server, pacer)

    return open_it


@asynccontextmanager
@trio.lowlevel.enable_ki_protection  # so that what one manager has opened is closed even if the next has not begun
async def open_session(
    options: ConnectOptions,
    credentials: Credentials,
    policy: RetryPolicy,
    environment: Environment,
    *,
    pacer: Pacer | None = None,
    pace: OpenPace | None = None,
    correct_clock: bool = False,
    correction: float = 0.0,
    token_field: str = TOKEN_FIELDS[0],
    journal: OpenJournal | None = None,
    lookup: OrderLookup | OpensLookup | None = None,
    look_up_closed: bool = False,
    lookups_by: tuple[Dial | None, str | Literal[True] | None] = (None, None),
    observer: Observer | None = None,
) -> AsyncGenerator[TradingWS]:
    """Open a session with what :func:`open_trading_ws` has checked: the door for the command line and simulations."""
    check_trio("open_trading_ws()")
    if pacer is not None and not pacer.shared:
        limit_of(pacer).begin()
    prefix = environment.id_prefix()
    async with AsyncExitStack() as stack:
        log: Journal | None = None
        if journal is not None:
            opening = journal(prefix, environment.wall, timings=environment.timings)
            log = await stack.enter_async_context(opening)
        if pace is not None:
            pacer = pacer_of(await stack.enter_async_context(pace()))
        clock = VenueClock(environment.wall, environment.steady, correct=correct_clock, correction=correction)
        opened: OrderLookup | None = None
        if lookup is not None:
            opened = await stack.enter_async_context(
                _opened(lookup, clock, options.ssl_context, lookups_by, credentials, environment)
            )
        session = Session(
            options,
            credentials,
            environment,
            pacer=pacer,
            observer=observer,
            clock=clock,
            id_prefix=prefix,
            journal=log,
            token_field=token_field,
            lookup=opened,
            look_up_closed=look_up_closed,
        )
        await stack.enter_async_context(run_session(session))
        try:
            yield TradingWS(session, policy)
        except BaseException as error:
            if log is not None and not session.told_taken_over and (over := log.taken_over) is not None:
                error.add_note(str(over))
            raise
        if log is not None and not session.told_taken_over and (over := log.taken_over) is not None:
            raise over


@asynccontextmanager
async def _opened(
    lookup: OrderLookup | OpensLookup,
    clock: VenueClock,
    ssl_context: ssl.SSLContext | None,
    reached_by: tuple[Dial | None, str | Literal[True] | None],
    credentials: Credentials,
    environment: Environment,
) -> AsyncGenerator[OrderLookup]:
    if not hasattr(lookup, "opened"):
        yield lookup
        return
    dial, proxy = reached_by
    async with lookup.opened(
        credentials=credentials,
        ssl_context=ssl_context,
        dial=dial,
        proxy=proxy,
        wall_clock=environment.wall,
        correction=lambda: clock.correction,
    ) as opened:
        yield opened
