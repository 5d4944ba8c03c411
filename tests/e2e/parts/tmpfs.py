"""A small file system in memory, and ballast to fill it."""

import contextlib
import os
from pathlib import Path

from parts.process import run

PIECE_BYTES = 64 * 1024


class Tmpfs:
    def __init__(self, folder: Path, size_bytes: int):
        folder.mkdir(parents=True)
        self.folder = folder
        self.store = folder / "store"
        run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)])
        self.store.mkdir()

    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def leave(self, free_bytes: int) -> None:
        """Writes ballast until only so much is free; another writer may be faster to the last of it."""
        with contextlib.suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as ballast:
            while (surplus := self.free_bytes() - free_bytes) > 0:
                ballast.write(bytes(min(surplus, PIECE_BYTES)))

    def unmount(self) -> None:
        run(["umount", "--lazy", str(self.folder)])
