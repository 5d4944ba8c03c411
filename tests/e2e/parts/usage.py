"""What the store of a server takes on its disk, sampled in a thread while something else goes on."""

import contextlib
import signal
import subprocess
import threading
from pathlib import Path

from parts.headpond import Headpond
from parts.process import wait_until


def used_bytes(headpond: Headpond) -> int:
    """`du` of a server's store.

    Where one file goes for another while `du` walks, it may count both. So the server, which alone writes there, is
    stopped for as long as `du` takes.
    """
    with _stopped(headpond):
        command = ["du", "-s", "--block-size=1", str(headpond.store.path)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


class UsageSamples:
    """The same, again and again."""

    def __init__(self, headpond: Headpond, pause_seconds: float = 0.05):
        self.headpond = headpond
        self.pause_seconds = pause_seconds
        self.samples: list[int] = []
        self._failure: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "UsageSamples":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _sample(self) -> None:
        try:
            while not self._ended.wait(self.pause_seconds):
                self.samples.append(used_bytes(self.headpond))
        except Exception as failure:
            self._failure = failure


@contextlib.contextmanager
def _stopped(headpond: Headpond):
    """All of its threads: one that writes is stopped once it has written."""
    threads = Path(f"/proc/{headpond.process.pid}/task")
    headpond.process.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: all(_state(thread) == "T" for thread in threads.iterdir()), "the server has stopped", pause=0)
        yield
    finally:
        headpond.process.signal(signal.SIGCONT)


def _state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"  # It has ended.
