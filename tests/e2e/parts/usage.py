"""What a folder takes on its disk, as `du` counts it, sampled in a thread while something else goes on."""

import subprocess
import threading
from pathlib import Path


def used_bytes(folder: Path) -> int:
    """Files may come and go while `du` walks: what it says of those is no matter."""
    said = subprocess.run(["du", "-s", "--block-size=1", str(folder)], capture_output=True, text=True, check=False)
    return int(said.stdout.split()[0])


class UsageSamples:
    def __init__(self, folder: Path, pause_seconds: float = 0.05):
        self.folder = folder
        self.pause_seconds = pause_seconds
        self.samples: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "UsageSamples":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join(30)

    def _sample(self) -> None:
        while not self._ended.wait(self.pause_seconds):
            self.samples.append(used_bytes(self.folder))
