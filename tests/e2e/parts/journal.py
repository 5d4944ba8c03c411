"""What the proxy saw: every request, with what became of it."""

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Seen:
    """One request. `body_bytes` counts what was sent to the client so far, headers left out; `at` is in unix seconds."""

    method: str
    path: str
    query: str
    headers: dict[str, str] = field(repr=False)
    client: str = ""
    at: float = field(default_factory=time.time)
    status: int | None = None
    body_bytes: int = 0


class Journal:
    def __init__(self):
        self._lock = threading.Lock()
        self._seen: list[Seen] = []

    def add(self, seen: Seen) -> None:
        with self._lock:
            self._seen.append(seen)

    def all(self, method: str | None = None, part: str = "") -> list[Seen]:
        """Requests whose path holds `part`, oldest first."""
        with self._lock:
            return [seen for seen in self._seen if part in seen.path and method in (None, seen.method)]

    def count(self, method: str | None = None, part: str = "") -> int:
        return len(self.all(method, part))

    def by_path(self) -> dict[tuple[str, str], int]:
        counts: dict[tuple[str, str], int] = {}
        for seen in self.all():
            key = (seen.method, seen.path)
            counts[key] = counts.get(key, 0) + 1
        return counts

    def body_bytes(self, part: str) -> int:
        return sum(seen.body_bytes for seen in self.all("GET", part))
