"""Types of the objects that ``trio_cancel`` gives you: for annotations and for reading fields. You rarely make one.

======================  ================================================================================================
:class:`Batch`          what ``ws.batch(…)`` makes: a bulk cancel that you can interrupt
:class:`CancelStream`   what ``ws.open_cancel_stream(…)`` yields
:class:`OrderScope`     what ``ws.open_order_scope()`` yields
:class:`CancelReport`   what ``ws.cancel_many(…)`` and ``ws.resume()`` return
:class:`Outcomes`       ``report.outcomes``: a sequence that can be used as a tuple
:class:`InvalidItem`    one of ``report.invalid``: an item of the input that named no order
:class:`OpenReport`     what ``ws.cancel_open(…)`` returns
:class:`CanceledOrder`  what ``ws.cancel(…)`` returns
:class:`Attempt`        one of ``outcome.attempts``
:class:`VenueReply`     ``outcome.error``: what the venue said
:class:`SessionState`   ``ws.state``
:class:`LeaseState`     ``ws.lease``
:class:`OffsetInterval` ``ws.clock``
:class:`Statistics`     what ``ws.statistics()`` returns
``OutcomeKind``         the possible values of ``outcome.kind``
======================  ================================================================================================
"""

from trio_cancel._cancels.batch import Batch as Batch
from trio_cancel._cancels.scope import OrderScope as OrderScope
from trio_cancel._cancels.stream import CancelStream as CancelStream
from trio_cancel._journal.lease import LeaseState as LeaseState
from trio_cancel._session.session import SessionState as SessionState
from trio_cancel._values.clock import OffsetInterval as OffsetInterval
from trio_cancel._values.kept import Outcomes as Outcomes
from trio_cancel._values.models import CanceledOrder as CanceledOrder
from trio_cancel._values.observer import Statistics as Statistics
from trio_cancel._values.open_report import OpenReport as OpenReport
from trio_cancel._values.outcomes import Attempt as Attempt
from trio_cancel._values.outcomes import OutcomeKind as OutcomeKind
from trio_cancel._values.outcomes import VenueReply as VenueReply
from trio_cancel._values.report import CancelReport as CancelReport
from trio_cancel._values.report import InvalidItem as InvalidItem

__all__ = [
    "Attempt",
    "Batch",
    "CancelReport",
    "CancelStream",
    "CanceledOrder",
    "InvalidItem",
    "LeaseState",
    "OffsetInterval",
    "OpenReport",
    "OrderScope",
    "OutcomeKind",
    "Outcomes",
    "SessionState",
    "Statistics",
    "VenueReply",
]
