"""A sandbox exchange: the venue's contract on the loopback interface, for demos and for the tests of your programs.

    async with open_sandbox(tls=True) as sandbox:
        order = sandbox.book.create(external_id="my-order-123")
        async with open_trading_ws(
            sandbox.url, credentials=sandbox.credentials, ssl_context=sandbox.ssl_context
        ) as ws:
            await ws.cancel(order.id)
        assert sandbox.log.applied(order.id)

It checks every signature, keeps a book, limits requests, and misbehaves on demand (`Fault`, `Faults`). It was written
from the venue's documents and shares no wire code with the client.
"""

from trio_cancel.sandbox._book import Book as Book
from trio_cancel.sandbox._book import BookError as BookError
from trio_cancel.sandbox._book import BookStatus as BookStatus
from trio_cancel.sandbox._book import ClosedOrder as ClosedOrder
from trio_cancel.sandbox._book import InvalidOrder as InvalidOrder
from trio_cancel.sandbox._book import NoSuchOrder as NoSuchOrder
from trio_cancel.sandbox._book import Order as Order
from trio_cancel.sandbox._faults import CustomReply as CustomReply
from trio_cancel.sandbox._faults import Fault as Fault
from trio_cancel.sandbox._faults import Faults as Faults
from trio_cancel.sandbox._faults import Point as Point
from trio_cancel.sandbox._faults import RestFault as RestFault
from trio_cancel.sandbox._faults import RestFaults as RestFaults
from trio_cancel.sandbox._log import ConnectionRecord as ConnectionRecord
from trio_cancel.sandbox._log import Log as Log
from trio_cancel.sandbox._log import RequestRecord as RequestRecord
from trio_cancel.sandbox._rest import RestLog as RestLog
from trio_cancel.sandbox._rest import RestRecord as RestRecord
from trio_cancel.sandbox._server import Sandbox as Sandbox
from trio_cancel.sandbox._server import SandboxOptions as SandboxOptions
from trio_cancel.sandbox._server import open_sandbox as open_sandbox
from trio_cancel.sandbox._server import serve_sandbox as serve_sandbox
from trio_cancel.sandbox._side_door import FaultStatus as FaultStatus
from trio_cancel.sandbox._side_door import SandboxControl as SandboxControl
from trio_cancel.sandbox._side_door import SandboxControlError as SandboxControlError
from trio_cancel.sandbox._side_door import open_sandbox_control as open_sandbox_control

# Their names in earlier versions.
OrderStatus = BookStatus
UnknownOrder = NoSuchOrder
