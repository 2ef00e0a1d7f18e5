"""The command line. Each command has its own module, which is loaded when the command runs.

::

    _app        the commands, what they share, and how their errors become one line and a status
    _cancel     _demo     _sandbox     _doctor     _resume     _journal          one command each
    _run        a bulk cancel that signals and a deadline can end, and that accounts for every order
    _checks     what the doctor checks
    _input      turns files and arguments into requests (no network)
    _help       what --help prints besides the options  _usage      what is wrong with the arguments
    _env_file   variables from a file                    _log        the library's log on stderr
    _waiting    what a run is waiting for, in words (sans-I/O)
    _tally      what happened to the orders, and the exit status that follows
    _records    an outcome as a line of JSON or of text
    _figures    percentiles and a histogram
    _stdout     writes lines to a pipe without holding up the session
    _screen     progress and tables: what a terminal shows
    _venue      where to connect, and with what
    _failure    one clear line
"""

from trio_cancel._cli._app import run as run
from trio_cancel._cli._app import run_async as run_async
