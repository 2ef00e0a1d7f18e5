"""``trio-cancel`` and ``python -m trio_cancel``."""

from __future__ import annotations

import sys

EXTRA = ("cyclopts", "rich", "trustme")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status.

    Args:
        arguments: the words after the program's name; ``sys.argv``'s if None.
    """
    try:
        from trio_cancel._cli import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        sys.stderr.write(
            f"trio-cancel: the command line needs {error.name}, which is not installed; "
            "install the extra: pip install 'trio-cancel[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:  # so early that nothing has begun
        sys.stderr.write("trio-cancel: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
