"""Many clients at once, over plain HTTP."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from parts.edge import Answer, Edge, request

T = TypeVar("T")


def at_once(jobs: Iterable[Callable[[], T]]) -> list[T]:
    """Runs all jobs at the same time, each in a thread; the first failure is raised."""
    jobs = list(jobs)
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def get_many(edge: Edge, path: str, clients: int, timeout: float = 150.0) -> list[Answer]:
    """The same GET from many clients at once; bodies are hashed, not kept."""
    return at_once([lambda: request(edge, path, keep_body=False, timeout=timeout)] * clients)
