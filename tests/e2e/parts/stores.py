"""Where a Headpond keeps what it has: a disk, a bucket, or a bucket behind a disk. The whole suite runs on each."""

from collections.abc import Callable, Iterable
from pathlib import Path

from parts.images import digest_of
from parts.s3 import ACCESS_KEY, REGION, SECRET_KEY, Bucket

KINDS = ("disk", "bucket", "tier")
TIER_BYTES = 20 << 30


class Store:
    """A folder, with a prefix of a bucket behind it or none. Further arguments are settings of `storage`."""

    def __init__(self, path: Path, bucket: Bucket | None = None, prefix: str = "", **settings):
        self.path = path
        self.bucket = bucket
        self.prefix = prefix
        self.more = settings

    @property
    def settings(self) -> dict:
        return {"path": str(self.path), **self.more, **({"s3": self.s3} if self.bucket else {})}

    @property
    def s3(self) -> dict:
        assert self.bucket is not None
        return {
            "bucket": self.bucket.name,
            "prefix": self.prefix,
            "endpoint": self.bucket.edge.url,
            "region": REGION,
            "path_style": True,
            "access_key": "env:E2E_ACCESS_KEY",
            "secret_key": "env:E2E_SECRET_KEY",
            **self.more.get("s3", {}),
        }

    @property
    def env(self) -> dict[str, str]:
        return {"E2E_ACCESS_KEY": ACCESS_KEY, "E2E_SECRET_KEY": SECRET_KEY} if self.bucket else {}

    def staged(self) -> list[Path]:
        return [path for path in (self.path / "staging").rglob("*") if path.is_file()]

    def noted(self) -> list[str]:
        """Digests of what the bucket is still to get from the disk."""
        return [path.name.partition(".")[0].replace("-", ":") for path in (self.path / "pending").glob("*")]

    def files(self) -> list[Path]:
        """Blobs on the disk."""
        return [path for path in (self.path / "blobs").rglob("*") if path.is_file()]

    def key(self, digest: str) -> str:
        algorithm, _, name = digest.partition(":")
        return f"{self.prefix}/blobs/{algorithm}/{name[:2]}/{name}"

    def file(self, digest: str) -> Path:
        algorithm, _, name = digest.partition(":")
        return self.path / "blobs" / algorithm / name[:2] / name

    def objects(self) -> list[str]:
        """Keys of blobs in the bucket."""
        return self.bucket.keys(f"{self.prefix}/blobs/") if self.bucket else []

    def holds(self, digest: str) -> bool:
        """In the bucket where there is one: what is only in front of it can be lost."""
        return self.bucket.has(self.key(digest)) if self.bucket else self.file(digest).is_file()

    def holds_all(self, digests: Iterable[str]) -> bool:
        return all(self.holds(digest) for digest in digests)

    def uploads(self) -> list[str]:
        """Keys of what is uploaded in parts just now, or was and is left."""
        return self.bucket.uploads(f"{self.prefix}/") if self.bucket else []

    def check(self, digests: Iterable[str] | None = None) -> None:
        """Every blob, wherever it lies, is what its name says; or those of these that are there."""
        wanted = None if digests is None else {digest.partition(":")[2] for digest in digests}
        for path in self.files():
            if wanted is None or path.name in wanted:
                assert digest_of(path.read_bytes()) == f"sha256:{path.name}"
        for key in self.objects():
            name = key.rpartition("/")[2]
            if wanted is None or name in wanted:
                assert self.bucket.digest(key) == f"sha256:{name}"

    def clear(self) -> None:
        """Empties the prefix: the bucket lies in memory."""
        if self.bucket:
            self.bucket.delete(f"{self.prefix}/")


def make(kind: str, path: Path, bucket: Callable[[], Bucket], prefix: str) -> Store:
    """A store of one of the KINDS: alone on a disk, in the bucket with nothing before it, or with a disk before it."""
    if kind == "disk":
        return Store(path)
    return Store(path, bucket(), prefix, max_size="0" if kind == "bucket" else f"{TIER_BYTES >> 30}GiB")
