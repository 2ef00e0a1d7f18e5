"""``trio-cancel completion``: a script for a shell, made from the commands themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from cyclopts import App, Parameter

from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import Status

Shell = Literal["bash", "zsh", "fish"]


def completing(app: App) -> Callable[[Shell], int]:
    """Return the command that prints the script for an app."""

    def completion(shell: Annotated[Shell, Parameter(name="SHELL", help="The shell.")], /) -> int:
        write_stdout(app.generate_completion(shell=shell))
        return Status.OK

    return completion
