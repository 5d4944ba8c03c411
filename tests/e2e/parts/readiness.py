"""What /readyz says while something else goes on: a server that is asked by a load balancer is asked all the time."""

import contextlib
import threading
from collections.abc import Iterator

from parts.headpond import Headpond

PAUSE_SECONDS = 0.2


@contextlib.contextmanager
def always_ready(headpond: Headpond) -> Iterator[None]:
    """Fails at its end where the server was ever found not ready, or did not answer."""
    said: list[int | None] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(PAUSE_SECONDS):
            said.append(headpond.ready())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    said.append(headpond.ready())
    assert set(said) == {200}, said
