"""Cancel orders at Ripio Trade over its WebSocket API, and find out what happened to each of them.

Start with ``async with open_trading_ws() as ws``. What you call, match or catch is here; names for annotations are in
``trio_cancel.types``. ``trio_cancel.journal`` reads journals, ``trio_cancel.lookup`` looks orders up,
``trio_cancel.sandbox`` is an exchange to test against, and ``trio_cancel.testing`` has fixtures for pytest. The guides
are in the package's folder ``guides``.
"""

from trio_cancel._client import TradingWS as TradingWS
from trio_cancel._client import open_trading_ws as open_trading_ws
from trio_cancel._engine.rate import Pacer as Pacer
from trio_cancel._guard.opening import open_guard as open_guard
from trio_cancel._trio.signals import cancel_on_signals as cancel_on_signals
from trio_cancel._values.errors import ConfigurationError as ConfigurationError
from trio_cancel._values.errors import ConnectionLost as ConnectionLost
from trio_cancel._values.errors import HandshakeFailed as HandshakeFailed
from trio_cancel._values.errors import Interrupted as Interrupted
from trio_cancel._values.errors import InvalidReply as InvalidReply
from trio_cancel._values.errors import InvalidRequest as InvalidRequest
from trio_cancel._values.errors import JournalError as JournalError
from trio_cancel._values.errors import LookupFailed as LookupFailed
from trio_cancel._values.errors import NoReply as NoReply
from trio_cancel._values.errors import NotWritten as NotWritten
from trio_cancel._values.errors import SessionClosed as SessionClosed
from trio_cancel._values.errors import TradingError as TradingError
from trio_cancel._values.errors import UnlistedRefusal as UnlistedRefusal
from trio_cancel._values.errors import VenueUnavailable as VenueUnavailable
from trio_cancel._values.models import CancelRequest as CancelRequest
from trio_cancel._values.models import Credentials as Credentials
from trio_cancel._values.observer import Observer as Observer
from trio_cancel._values.outcomes import AlreadyClosed as AlreadyClosed
from trio_cancel._values.outcomes import Canceled as Canceled
from trio_cancel._values.outcomes import CancelNotSent as CancelNotSent
from trio_cancel._values.outcomes import InvalidSignature as InvalidSignature
from trio_cancel._values.outcomes import MissingParameters as MissingParameters
from trio_cancel._values.outcomes import NotFound as NotFound
from trio_cancel._values.outcomes import NotSent as NotSent
from trio_cancel._values.outcomes import NotSurelyThisOrder as NotSurelyThisOrder
from trio_cancel._values.outcomes import OrderNotActive as OrderNotActive
from trio_cancel._values.outcomes import OrderNotFound as OrderNotFound
from trio_cancel._values.outcomes import Outcome as Outcome
from trio_cancel._values.outcomes import OutcomeUnknown as OutcomeUnknown
from trio_cancel._values.outcomes import RateLimited as RateLimited
from trio_cancel._values.outcomes import Rejected as Rejected
from trio_cancel._values.outcomes import Unknown as Unknown
from trio_cancel._values.outcomes import VenueError as VenueError
from trio_cancel._values.report import OrdersLeft as OrdersLeft
from trio_cancel._values.report import TakenOver as TakenOver

__version__ = "0.1.0"

__all__ = [
    "AlreadyClosed",
    "CancelNotSent",
    "CancelRequest",
    "Canceled",
    "ConfigurationError",
    "ConnectionLost",
    "Credentials",
    "HandshakeFailed",
    "Interrupted",
    "InvalidReply",
    "InvalidRequest",
    "InvalidSignature",
    "JournalError",
    "LookupFailed",
    "MissingParameters",
    "NoReply",
    "NotFound",
    "NotSent",
    "NotSurelyThisOrder",
    "NotWritten",
    "Observer",
    "OrderNotActive",
    "OrderNotFound",
    "OrdersLeft",
    "Outcome",
    "OutcomeUnknown",
    "Pacer",
    "RateLimited",
    "Rejected",
    "SessionClosed",
    "TakenOver",
    "TradingError",
    "TradingWS",
    "Unknown",
    "UnlistedRefusal",
    "VenueError",
    "VenueUnavailable",
    "cancel_on_signals",
    "open_guard",
    "open_trading_ws",
]
