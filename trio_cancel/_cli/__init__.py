"""The command line. Each command has its own module, which is loaded when the command runs.

::

    _app        the commands, what they share, and how their errors become one line and a status
    _cancel     _show     _resume     _journal     _guard     _sandbox     _fault     _doctor     _demo
    _options    options that several commands have       _help     what --help prints besides the options
    _venue      where to connect and look orders up      _log      the library's log on stderr
    _env_file   variables from a file                    _failure  one clear line on stderr
    _input      turns arguments and files into requests, with _lines and _table (no network)
    _run        a bulk cancel that signals and a deadline can end, and that accounts for every order
    _open       cancel --open: a run whose orders come from the venue's list
    _waiting    what a run is waiting for, in words      _tally    what happened to the orders, and the exit status
    _output     what a run reports, and where            _records  an outcome as a line of JSON or of text
    _screen     progress and tables on a terminal        _figures  percentiles and a histogram
    _stdout     writes lines to a pipe without holding up the session
    _page       a journal as an HTML page                _checks   what the doctor checks
    _guard_status, _orders, _variables, _child           what guard --status, the demo and the sandbox need besides
"""

from trio_cancel._cli._app import run as run
from trio_cancel._cli._app import run_async as run_async
