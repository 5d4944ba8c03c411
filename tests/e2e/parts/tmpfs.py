"""A small file system in memory, and ballast to fill it."""

import contextlib
import itertools
import os
import shutil
from pathlib import Path

from parts.process import run

PIECE_BYTES = 64 * 1024


class Tmpfs:
    def __init__(self, folder: Path, size_bytes: int, inodes: int = 0):
        """No `inodes` is no limit to them."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.store = folder / "store"
        run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},nr_inodes={inodes}", "tmpfs", str(folder)])
        self.store.mkdir()

    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def leave(self, free_bytes: int) -> None:
        """Writes ballast until only so much is free; another writer may be faster to the last of it."""
        with contextlib.suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as ballast:
            while (surplus := self.free_bytes() - free_bytes) > 0:
                ballast.write(bytes(min(surplus, PIECE_BYTES)))

    def turn_read_only(self) -> None:
        """The store is mounted over itself, read-only: the kernel refuses to remount what somebody writes to.

        So files that are open already can be written on; nothing can be created, renamed or removed.
        """
        run(["mount", "--bind", str(self.store), str(self.store)])
        run(["mount", "-o", "remount,bind,ro", str(self.store)])

    def turn_writable(self) -> None:
        run(["umount", "--lazy", str(self.store)])

    def use_up_inodes(self) -> None:
        spent = self.folder / "spent"
        spent.mkdir()
        with contextlib.suppress(OSError):
            for number in itertools.count():
                (spent / str(number)).touch()

    def free_inodes(self) -> None:
        shutil.rmtree(self.folder / "spent")

    def unmount(self) -> None:
        run(["umount", "--lazy", "--recursive", str(self.folder)])
