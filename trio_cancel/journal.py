"""Read a journal, while a session writes it or after its process has died: what it knows about each order.

``read_journal(address)`` returns a :class:`JournalContents`: the sessions, and every order with its holds and cancels.
It blocks; in a trio program call it through ``trio.to_thread.run_sync``. Nothing is sent, and the journal is not
changed. To cancel what a journal lists as left, open a session with it and use ``ws.left_behind`` and ``ws.resume()``.

This module needs SQLite. Importing ``trio_cancel`` does not load it.
"""

from trio_cancel._journal.reading import JournalCancel as JournalCancel
from trio_cancel._journal.reading import JournalContents as JournalContents
from trio_cancel._journal.reading import JournalHold as JournalHold
from trio_cancel._journal.reading import JournalOrder as JournalOrder
from trio_cancel._journal.reading import JournalSession as JournalSession
from trio_cancel._journal.reading import read_journal as read_journal

__all__ = [
    "JournalCancel",
    "JournalContents",
    "JournalHold",
    "JournalOrder",
    "JournalSession",
    "read_journal",
]
