"""A command at a terminal of its own: what it shows, and what is typed."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time


class Terminal:
    """`sparsespec` in a pseudo-terminal, 100 columns wide."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sparsespec", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def until(self, words: str, seconds: float = 120) -> str:
        """Read until `words` have been shown since the last call; returns what came up to there."""
        end = time.monotonic() + seconds
        while words not in self.shown:
            assert time.monotonic() < end, f"{words!r} did not come, but: {self.shown}"
            if not self._read():
                raise AssertionError(f"the terminal closed before {words!r}: {self.shown}")
        before, _, self.shown = self.shown.partition(words)
        return before + words

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Do what Ctrl-C does where the terminal is the controlling one."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> tuple[str, int]:
        """Read the rest; returns it and the exit code."""
        while self._read():
            pass
        os.close(self._ours)
        return self.shown, self.process.wait(timeout=60)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], 1)[0]:
            return self.process.poll() is None
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # Linux says so where others say the end
            return False
        self.shown += chunk.decode(errors="replace")
        return bool(chunk)
