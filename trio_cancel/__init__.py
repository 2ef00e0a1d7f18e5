"""Cancel orders at Ripio Trade over its WebSocket, and know what became of every one.

``async with open_trading_ws() as ws`` is the one door. See the README beside this package's sources.
"""

import typing as _typing

from trio_cancel._cancels.batch import Batch as Batch
from trio_cancel._cancels.scope import OrderScope as OrderScope
from trio_cancel._cancels.stream import CancelStream as CancelStream
from trio_cancel._client import TradingWS as TradingWS
from trio_cancel._client import open_trading_ws as open_trading_ws
from trio_cancel._engine.rate import Pacer as Pacer
from trio_cancel._journal.lease import LeaseState as LeaseState
from trio_cancel._session.session import SessionState as SessionState
from trio_cancel._trio.signals import cancel_on_signals as cancel_on_signals
from trio_cancel._values.clock import OffsetInterval as OffsetInterval
from trio_cancel._values.errors import CancelNotSent as CancelNotSent
from trio_cancel._values.errors import ConfigurationError as ConfigurationError
from trio_cancel._values.errors import ConnectionLost as ConnectionLost
from trio_cancel._values.errors import HandshakeFailed as HandshakeFailed
from trio_cancel._values.errors import Interrupted as Interrupted
from trio_cancel._values.errors import InvalidReply as InvalidReply
from trio_cancel._values.errors import InvalidRequest as InvalidRequest
from trio_cancel._values.errors import InvalidSignature as InvalidSignature
from trio_cancel._values.errors import JournalError as JournalError
from trio_cancel._values.errors import LookupFailed as LookupFailed
from trio_cancel._values.errors import MissingParameters as MissingParameters
from trio_cancel._values.errors import NoReply as NoReply
from trio_cancel._values.errors import NotSurelyThisOrder as NotSurelyThisOrder
from trio_cancel._values.errors import NotWritten as NotWritten
from trio_cancel._values.errors import OrderNotActive as OrderNotActive
from trio_cancel._values.errors import OrderNotFound as OrderNotFound
from trio_cancel._values.errors import OrdersLeft as OrdersLeft
from trio_cancel._values.errors import OutcomeUnknown as OutcomeUnknown
from trio_cancel._values.errors import RateLimited as RateLimited
from trio_cancel._values.errors import SessionClosed as SessionClosed
from trio_cancel._values.errors import TakenOver as TakenOver
from trio_cancel._values.errors import TradingError as TradingError
from trio_cancel._values.errors import UnlistedRefusal as UnlistedRefusal
from trio_cancel._values.errors import VenueError as VenueError
from trio_cancel._values.errors import VenueUnavailable as VenueUnavailable
from trio_cancel._values.models import CanceledOrder as CanceledOrder
from trio_cancel._values.models import CancelRequest as CancelRequest
from trio_cancel._values.models import Credentials as Credentials
from trio_cancel._values.observer import Observer as Observer
from trio_cancel._values.observer import Statistics as Statistics
from trio_cancel._values.open_report import OpenReport as OpenReport
from trio_cancel._values.order_state import Fill as Fill
from trio_cancel._values.order_state import OrderLookup as OrderLookup
from trio_cancel._values.order_state import OrderState as OrderState
from trio_cancel._values.order_state import OrderStatus as OrderStatus
from trio_cancel._values.outcomes import AlreadyClosed as AlreadyClosed
from trio_cancel._values.outcomes import Attempt as Attempt
from trio_cancel._values.outcomes import Canceled as Canceled
from trio_cancel._values.outcomes import CancelReport as CancelReport
from trio_cancel._values.outcomes import InvalidItem as InvalidItem
from trio_cancel._values.outcomes import NotFound as NotFound
from trio_cancel._values.outcomes import NotSent as NotSent
from trio_cancel._values.outcomes import Outcome as Outcome
from trio_cancel._values.outcomes import Rejected as Rejected
from trio_cancel._values.outcomes import Unknown as Unknown
from trio_cancel._values.outcomes import VenueReply as VenueReply

if _typing.TYPE_CHECKING:
    from trio_cancel._journal.reading import JournalCancel as JournalCancel
    from trio_cancel._journal.reading import JournalContents as JournalContents
    from trio_cancel._journal.reading import JournalHold as JournalHold
    from trio_cancel._journal.reading import JournalOrder as JournalOrder
    from trio_cancel._journal.reading import JournalSession as JournalSession
    from trio_cancel._journal.reading import read_journal as read_journal

_OF_THE_JOURNAL = frozenset(
    {"JournalCancel", "JournalContents", "JournalHold", "JournalOrder", "JournalSession", "read_journal"}
)


def __getattr__(name: str) -> object:
    # Reading journals needs SQLite; who does not read any does not wait for its import.
    if name in _OF_THE_JOURNAL:
        from trio_cancel._journal import reading as _journal_reading

        return getattr(_journal_reading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_THE_JOURNAL})
