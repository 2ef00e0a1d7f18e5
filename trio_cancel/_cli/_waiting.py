"""What a run is waiting for and why, in words: from what an observer sees (sans-I/O).

Only the run's observer changes it, in the trio thread; readers call ``text``.
"""

from __future__ import annotations

from trio_cancel._cli._failure import clean, shell_words, short

PATIENCE = 2.0
"""Seconds without an event that need no explanation."""
CAUSE_MOST = 200


class Waiting:
    """What a run is waiting for now. Times are seconds of one clock that never goes back."""

    def __init__(self, now: float) -> None:
        self.pace: str | None = None
        self._began = now
        self._connected = False
        self._connections = 0
        self._cause = ""
        self._unanswered = 0
        self._since = now  # of the last thing that happened

    def opened(self, now: float) -> None:
        """Note that a connection is ready."""
        self._connected = True
        self._connections += 1
        self._cause, self._unanswered, self._since = "", 0, now

    def lost(self, cause: BaseException | None, now: float) -> None:
        """Note that the connection ended, or that an attempt to make one failed."""
        if self._connected or not self._connections:
            self._began = now if self._connections else self._began
        self._connected, self._unanswered = False, 0
        if cause is not None:
            self._cause = short(clean(shell_words(str(cause))), CAUSE_MOST).rstrip(".")

    def written(self, now: float) -> None:
        """Note that a request was written."""
        if not self._unanswered:
            self._since = now
        self._unanswered += 1

    def answered(self, now: float) -> None:
        """Note that a request was answered."""
        self._unanswered = max(0, self._unanswered - 1)
        self._since = now

    def paced(self, rate: float, whose: str = "the venue's limit (429)") -> None:
        """Note how many requests a second are sent at most."""
        self.pace = f"held back by {whose}: {rate:.3g} requests/s"

    def text(self, now: float) -> str | None:
        """Return what is being waited for; None if things go on normally."""
        if not self._connected:
            doing = "reconnecting" if self._connections else "connecting"
            seconds = now - self._began
            return (
                f"{doing}{f' for {seconds:.0f} s' if seconds >= 1 else ''}{f': {self._cause}' if self._cause else ''}"
            )
        quiet = now - self._since
        if self._unanswered and quiet >= PATIENCE:
            return f"no answer from the venue for {quiet:.0f} s"
        if self.pace is not None:
            return self.pace
        if quiet >= PATIENCE:
            return f"waiting for {quiet:.0f} s to send again"
        return None
