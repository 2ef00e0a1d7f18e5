"""A journal as an HTML page: a timeline of sessions, connections, and each order's attempts and outcomes.

The page is a single file that requests nothing over a network: it includes the library that draws (plotly), and its own
content policy forbids every request. Ids come from outside: they are escaped as HTML in the page's text, and escaped
once more where plotly draws them, because plotly interprets some markup.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import Any

import attrs

from trio_cancel._cli._failure import CommandError, clean, counted, short
from trio_cancel._cli._tally import NAMED_MOST
from trio_cancel._journal.reading import DISMISSED, JournalContents, JournalOrder
from trio_cancel._values.models import canonical_id

ORDERS_MOST = 1000
"""Orders on a page: a browser has to draw them all. If there are more, the page shows the newest."""
LABELLED_MOST = 80
"""Up to this many orders, each has its name at the side; with more, the pointer shows it."""
ROW, ROWS_LEAST, ROWS_MOST = 22, 160, 6000
"""Pixels for an order, and for all of them at least and at most."""
KINDS = {
    "canceled": ("#1a7f37", "circle"),
    "already_closed": ("#0a7ea4", "square"),
    "not_found": ("#b35900", "diamond"),
    "rejected": ("#cf222e", "x"),
    "not_sent": ("#6e7781", "triangle-up"),
    "unknown": ("#8250df", "star"),
    DISMISSED: ("#24292f", "cross"),
}
"""Colour and shape of each outcome: either is enough to tell them apart."""
HELD, LEFT, ATTEMPT, NO_ANSWER, CONNECTION, SESSION = "#b6c2cf", "#f4a6a0", "#0550ae", "#cf222e", "#57606a", "#8c959f"

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; color: #1f2328; background: #fff }}
h1 {{ font-size: 1.3rem; margin: 0 0 .3rem }} h2 {{ font-size: 1.05rem; margin: 1.4rem 0 .4rem }}
p {{ margin: .2rem 0; max-width: 60rem }}
table {{ border-collapse: collapse; font-size: .9rem }}
td, th {{ text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; border-bottom: 1px solid #d8dee4 }}
td:nth-child(2), td:nth-child(3) {{ white-space: nowrap }}
td:first-child {{ word-break: break-all; max-width: 30rem; font-family: ui-monospace, monospace }}
.bad {{ color: #cf222e; font-weight: 600 }}
</style>
</head>
<body>
"""


@attrs.frozen
class Bar:
    """Something that lasted for some time, in Unix seconds, with the text that the pointer shows."""

    row: int
    begin: float
    end: float
    text: str


def build_page(contents: JournalContents, orders: list[JournalOrder], sessions: dict[int, str], name: str) -> str:
    """Return the page for these orders of the journal of this name; ``sessions`` are the sessions' states."""
    try:
        from plotly import graph_objects
        from plotly.subplots import make_subplots
    except ModuleNotFoundError as error:
        raise CommandError(
            "--html needs plotly, which is not installed; install the extra: pip install 'trio-cancel[html]'."
        ) from error
    orders = _joined(orders)
    shown = orders[-ORDERS_MOST:]
    above = _sessions_and_connections(contents, shown, sessions)
    height = min(ROWS_MOST, max(ROWS_LEAST, ROW * len(shown)))
    over = ROW * len(above) + 40
    figure: Any = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=30 / (height + over), row_heights=[over, height]
    )
    for trace in _traces(graph_objects, above, shown):
        figure.add_trace(trace[0], row=trace[1], col=1)
    figure.update_layout(
        height=height + over + 200,
        margin={"l": 10, "r": 10, "t": 90, "b": 40},
        template="plotly_white",
        hovermode="closest",
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
    )
    figure.update_xaxes(title_text="UTC", row=2, col=1)
    _name_rows(figure, 1, [_drawn(label) for label, _ in above])
    _name_rows(figure, 2, [_drawn(_name_of(order)) for order in shown] if len(shown) <= LABELLED_MOST else [])
    drawing = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    return "".join((*_words(contents, orders, shown, name), drawing, *_table(shown), "</body>\n</html>\n"))


def _joined(orders: list[JournalOrder]) -> list[JournalOrder]:
    """Return one entry for each order, as far as that is known.

    The journal records a cancel under the name that was used to ask the venue: for a scope the venue's id, once known.
    """
    names = {
        canonical_id(hold.order_id): order.request
        for order in orders
        for hold in order.holds
        if hold.order_id is not None and order.request.id is None
    }
    joined = {order.request: order for order in orders}
    for order in orders:
        name = None if order.request.id is None else names.get(canonical_id(order.request.id))
        if name is not None:
            named = joined[name]
            joined[name] = attrs.evolve(
                named,
                holds=named.holds + order.holds,
                cancels=tuple(sorted(named.cancels + order.cancels, key=lambda cancel: cancel.number)),
                open_holds=named.open_holds + order.open_holds,
                unsettled=named.unsettled or order.unsettled,
            )
            del joined[order.request]
    return list(joined.values())


def _words(
    contents: JournalContents, orders: list[JournalOrder], shown: list[JournalOrder], name: str
) -> Iterable[str]:
    left = [order for order in orders if order.left]
    yield _HEAD.format(title=escape(f"Journal {clean(name)}"))
    yield f"<h1>Journal {escape(clean(name))}</h1>\n"
    yield f"<p>{escape(clean(contents.url))}; {counted(len(orders), 'order')}. All times are UTC.</p>\n"
    if left:
        names = ", ".join(escape(_name_of(order)) for order in left[:NAMED_MOST])
        more = f" and {len(left) - NAMED_MOST} more" if len(left) > NAMED_MOST else ""
        yield f'<p class="bad">Left held or unsettled: {names}{more}</p>\n'
    else:
        yield "<p>No order was left.</p>\n"
    if len(shown) < len(orders):
        yield (
            f"<p>The newest {len(shown)} of them are below; --order, --since, --session and --left of trio-cancel "
            "journal select others.</p>\n"
        )
    yield "<p>Drag to zoom in, double-click to see everything. Click an entry of the legend to hide it.</p>\n"


def _table(shown: list[JournalOrder]) -> Iterable[str]:
    yield "<h2>Orders</h2>\n<table>\n<tr><th>order</th><th>held</th><th>cancels and attempts</th><th>now</th></tr>\n"
    for order in shown:
        holds = "<br>".join(
            escape(f"{moment(hold.held_at)} to {'' if hold.released_at is None else moment(hold.released_at)}")
            for hold in order.holds
        )
        cancels = "<br>".join(
            escape(
                f"{moment(cancel.intended_at)} {(cancel.kind or 'no outcome').replace('_', ' ')}, "
                f"{counted(len(cancel.attempts), 'attempt')}"
            )
            for cancel in order.cancels
        )
        now = '<span class="bad">left</span>' if order.left else "settled"
        yield f"<tr><td>{escape(_name_of(order, 200))}</td><td>{holds}</td><td>{cancels}</td><td>{now}</td></tr>\n"
    yield "</table>\n"


def _sessions_and_connections(
    contents: JournalContents, shown: list[JournalOrder], states: dict[int, str]
) -> list[tuple[str, Bar]]:
    """Return what is drawn above the orders: a label, and how long it lasted as far as these orders show."""
    spans: dict[tuple[int, int], list[float]] = {}
    for order in shown:
        for cancel in order.cancels:
            for attempt, connection in zip(cancel.attempts, cancel.connections, strict=True):
                times = [at for at in (attempt.written_at, attempt.answered_at) if at is not None]
                spans.setdefault((cancel.session, connection), []).extend(times)
    used = {hold.session for order in shown for hold in order.holds}
    used |= {cancel.session for order in shown for cancel in order.cancels}
    rows: list[tuple[str, Bar]] = []
    for session in contents.sessions:
        if session.number not in used:
            continue
        state = states.get(session.number, "")
        label = f"session {session.number}" + (f", {state}" if state else "")
        end = session.closed_at if session.closed_at is not None else session.alive_at
        text = f"{label}<br>opened {moment(session.opened_at)}<br>last sign of life {moment(end)}"
        rows.append((label, Bar(len(rows), session.opened_at, max(end, session.opened_at), text)))
        for (number, connection), times in sorted(spans.items()):
            if number == session.number and times:
                label = f"connection {number}.{connection}"
                text = f"{label}<br>first write {moment(min(times))}<br>last answer {moment(max(times))}"
                rows.append((label, Bar(len(rows), min(times), max(times), text)))
    return rows


def _traces(plot: Any, above: list[tuple[str, Bar]], shown: list[JournalOrder]) -> Iterable[tuple[Any, int]]:
    begun = [hold.held_at for order in shown for hold in order.holds]
    begun += [cancel.intended_at for order in shown for cancel in order.cancels]
    last = max([bar.end for _, bar in above] + begun, default=0.0)
    bars: defaultdict[str, list[Bar]] = defaultdict(list)
    for label, bar in above:
        bars[label.partition(" ")[0]].append(bar)
    outcomes: dict[str, list[Bar]] = {}
    for row, order in enumerate(shown):
        name = _drawn(_name_of(order))
        for hold in order.holds:
            text = f"{name}<br>held {moment(hold.held_at)}"
            if hold in order.open_holds:
                bars["left"].append(Bar(row, hold.held_at, last, f"{text}<br>and left"))
            else:
                end = hold.held_at if hold.released_at is None else hold.released_at
                ended = "" if hold.released_at is None else f"<br>until {moment(hold.released_at)}"
                bars["held"].append(Bar(row, hold.held_at, end, text + ended))
        for cancel in order.cancels:
            for attempt, connection in zip(cancel.attempts, cancel.connections, strict=True):
                written = cancel.intended_at if attempt.written_at is None else attempt.written_at
                text = f"{name}<br>{_drawn(attempt.request_id)}, connection {cancel.session}.{connection}"
                text += f"<br>written {moment(written)}"
                if attempt.answered_at is None:
                    bars["unanswered"].append(Bar(row, written, written, f"{text}<br>no answer"))
                else:
                    took = (attempt.answered_at - written) * 1000
                    text += f"<br>answered {moment(attempt.answered_at)} ({took:.1f} ms), status {attempt.status}"
                    bars["answered"].append(Bar(row, written, attempt.answered_at, text))
            at = cancel.intended_at if cancel.settled_at is None else cancel.settled_at
            kind = cancel.kind or "no outcome"
            text = f"{name}<br>{kind.replace('_', ' ')} {moment(at)}"
            text += f"<br>code {cancel.error_code}" if cancel.error_code else ""
            outcomes.setdefault(kind, []).append(Bar(row, at, at, text))
    yield _bars(plot, "session", bars["session"], SESSION, 8), 1
    yield _bars(plot, "connection", bars["connection"], CONNECTION, 4), 1
    yield _bars(plot, "held", bars["held"], HELD, 9), 2
    yield _bars(plot, "held, and left", bars["left"], LEFT, 9), 2
    yield _bars(plot, "attempt, answered", bars["answered"], ATTEMPT, 4), 2
    yield _marks(plot, "attempt, no answer", bars["unanswered"], NO_ANSWER, "line-ns-open"), 2
    for kind in (*KINDS, *sorted(outcomes.keys() - KINDS.keys())):
        if kind in outcomes:
            colour, shape = KINDS.get(kind, (LEFT, "circle-open"))
            yield _marks(plot, _drawn(kind.replace("_", " ")), outcomes[kind], colour, shape), 2


def _bars(plot: Any, name: str, bars: list[Bar], colour: str, width: int) -> Any:
    """Return bars as one line with gaps; the ends are marked, so that bars of no length can be seen."""
    return plot.Scatter(
        x=[at for bar in bars for at in (_iso(bar.begin), _iso(bar.end), None)],
        y=[row for bar in bars for row in (bar.row, bar.row, None)],
        text=[text for bar in bars for text in (bar.text, bar.text, "")],
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": width},
        marker={"color": colour, "size": width, "symbol": "square"},
        hovertemplate="%{text}<extra></extra>",
        showlegend=bool(bars),
    )


def _marks(plot: Any, name: str, bars: list[Bar], colour: str, symbol: str) -> Any:
    return plot.Scatter(
        x=[_iso(bar.begin) for bar in bars],
        y=[bar.row for bar in bars],
        text=[bar.text for bar in bars],
        name=name,
        mode="markers",
        marker={"color": colour, "size": 9, "symbol": symbol, "line": {"color": colour, "width": 2}},
        hovertemplate="%{text}<extra></extra>",
        showlegend=bool(bars),
    )


def _name_rows(figure: Any, row: int, labels: list[str]) -> None:
    """Name the rows at the side, with the first one at the top."""
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        autorange="reversed",
        automargin=True,
        zeroline=False,
        fixedrange=row == 1,
        row=row,
        col=1,
    )


def _name_of(order: JournalOrder, most: int = 40) -> str:
    return short(clean(order.request.key), most)


def _drawn(text: str) -> str:
    """Return text so that plotly draws it literally: it interprets some markup."""
    return escape(text, quote=False)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def moment(at: float) -> str:
    """Return Unix seconds as a person reads them, to the millisecond, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
