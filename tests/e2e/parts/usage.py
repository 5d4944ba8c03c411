"""What a folder takes on its disk, sampled in a thread while something else goes on."""

import subprocess
import threading
from pathlib import Path


def used_bytes(folder: Path) -> int:
    """Of a folder in which nothing changes, as `du` counts it."""
    said = subprocess.run(["du", "-s", "--block-size=1", str(folder)], capture_output=True, text=True, check=False)
    return int(said.stdout.split()[0])


def used_at_once_bytes(folder: Path) -> int:
    """Of a folder in which files come and go. Where one file goes for another while `du` walks, it may count both;
    but what was there in two looks, one after the other, was there all at once between them."""
    before, after = _look(folder), _look(folder)
    return sum(min(taken, after[entry]) for entry, taken in before.items() if entry in after)


def _look(folder: Path) -> dict[str, int]:
    """What each file and folder takes, by its inode, and its time of birth where the file system tells that: an inode
    may soon be another file's."""
    command = ["find", str(folder), "-printf", "%i/%B@ %b\n"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    entries = (line.split() for line in told.splitlines())
    return {entry: int(blocks) * 512 for entry, blocks in entries}


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
            self.samples.append(used_at_once_bytes(self.folder))
