"""libfaketime: the wall clock of one process, which a test moves ahead. What is only waited for goes on as it does."""

import time
from pathlib import Path


def library() -> Path:
    (found,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return found


class FakeTime:
    def __init__(self, folder: Path):
        self.ahead_seconds = 0
        self.file = folder / "faketime"
        self._write()
        self.env = {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def now(self) -> float:
        return time.time() + self.ahead_seconds

    def advance(self, hours: float) -> None:
        self.ahead_seconds += int(hours * 3600)
        self._write()

    def _write(self) -> None:
        """Moved into place: it is read at every look at the clock."""
        new = self.file.with_suffix(".new")
        new.write_text(f"+{self.ahead_seconds}\n")
        new.rename(self.file)
