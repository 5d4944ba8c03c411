"""Many clients at once, over plain HTTP."""

import hashlib
import http.client
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from parts.edge import PIECE_BYTES, Answer, Edge, check_complete, connect, headers_for, request

T = TypeVar("T")


def at_once(jobs: Iterable[Callable[[], T]]) -> list[T]:
    """Runs all jobs at the same time, each in a thread; the first failure is raised."""
    jobs = list(jobs)
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def get_many(edge: Edge, path: str, clients: int, timeout: float = 150.0) -> list[Answer]:
    """The same GET from many clients at once; bodies are hashed, not kept."""
    return at_once([lambda: request(edge, path, keep_body=False, timeout=timeout)] * clients)


class Follower:
    """A client in a thread of its own, whose progress can be looked at."""

    def __init__(self, edge: Edge, path: str):
        self.received = 0
        self._pool = ThreadPoolExecutor(1)
        self._digest = self._pool.submit(self._read, edge, path)

    def _read(self, edge: Edge, path: str) -> str:
        connection = connect(edge)
        connection.request("GET", path, headers=headers_for(edge))
        response = connection.getresponse()
        hasher, buffer = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES))
        while count := response.readinto(buffer):
            hasher.update(buffer[:count])
            self.received += count
        check_complete(response, "GET")
        connection.close()
        return f"sha256:{hasher.hexdigest()}"

    def is_cut_off(self, timeout: float = 60.0) -> bool:
        """Whether it ended without all of the body; waits for its end, and fails where that does not come."""
        try:
            self.finish(timeout)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException):
            return True
        return False

    def finish(self, timeout: float = 60.0) -> str:
        """The digest of all it received; fails when the body broke off."""
        try:
            return self._digest.result(timeout)
        finally:
            self._pool.shutdown(wait=False)
