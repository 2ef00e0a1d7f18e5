"""``trio-cancel`` and ``python -m trio_cancel``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

EXTRA = ("cyclopts", "rich", "trustme")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status.

    Args:
        arguments: the words after the program's name; if None, those of ``sys.argv``.
    """
    _fill_closed()
    try:
        from trio_cancel._cli import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        _say(
            f"the command line needs {error.name}, which is not installed; "
            "install the extra: pip install 'trio-cancel[cli]'"
        )
        return 2
    except KeyboardInterrupt:  # so early that nothing has started
        _say("interrupted")
        return 130


def _say(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # stderr is full, closed, or was never there
        sys.stderr.write(f"trio-cancel: {text}\n")
        sys.stderr.flush()


def _fill_closed() -> None:
    """Open the closed ones of stdin, stdout and stderr to nowhere: a socket must not get their number."""
    for standard in range(3):
        try:
            os.fstat(standard)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) > 2:  # the lowest free number comes first
                return


if __name__ == "__main__":
    sys.exit(main())
