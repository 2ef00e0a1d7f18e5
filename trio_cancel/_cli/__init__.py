"""The command line. Each command has a module of its own, which is loaded when the command is run.

::

    _app        the commands, what they have in common, and how their errors become one line and a status
    _cancel     _demo     _sandbox     _doctor     _resume     _journal          one command each
    _run        a bulk cancel that signals and a deadline can end, and that accounts for every order
    _checks     what the doctor looks at
    _input      files and arguments into requests (no network)
    _help       what --help says besides the options     _usage      what is wrong with the words
    _env_file   variables from a file                    _log        the library's log on stderr
    _waiting    what a run waits for, in words (sans-I/O)
    _tally      what has become of the orders, and the exit status that follows
    _records    an outcome as a line of JSON or of text
    _figures    percentiles and a histogram
    _stdout     lines out to a pipe, without holding up the session
    _screen     progress, tables: what a terminal shows
    _venue      where to connect, with what
    _failure    one clear line
"""

from trio_cancel._cli._app import run as run
from trio_cancel._cli._app import run_async as run_async
