"""`headpond scrub` and `headpond gc`, through the running server: what rots is found, what nobody needs goes, no pull fails.

Pushing is not there yet. What garbage collection owes to writes of pushed content is in tests/it/gc; in a bucket such
writes are beside the pulls here, too, from another process. Half a minute of gc in the suite, five with E2E_LONG=1
(`make e2e-long`).
"""

import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from parts.contract import run_contract
from parts.crowd import at_once
from parts.headpond import Headpond, rules_for
from parts.images import Image, digest_of
from parts.process import wait_until
from parts.stores import Store
from parts.upkeep import command, scrub

GC_SECONDS = 300 if os.environ.get("E2E_LONG") else 20
GRACE_SECONDS = 3
CLIENTS = 6
ORPHAN_BYTES = 50_000
NEW_IMAGE_SECONDS = 1.5


def get_image(headpond: Headpond, image: Image) -> None:
    """All platforms of it, each by its manifest: what no manifest refers to may go."""
    assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").digest == image.digest
    for manifest in image.manifests:
        assert headpond.get(f"/v2/{image.repository}/manifests/{manifest.digest}").digest == manifest.digest
    for digest in image.blobs:
        assert headpond.get(f"/v2/{image.repository}/blobs/{digest}").digest == digest


def flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def rot(store: Store, digest: str) -> None:
    """Wherever it lies, and so that size and name stay what they were."""
    if store.bucket:
        store.bucket.put(store.key(digest), flip_a_byte(store.bucket.get(store.key(digest))))
    path = store.file(digest)
    if path.is_file():
        path.write_bytes(flip_a_byte(path.read_bytes()))


def findings_of(told: dict, digest: str) -> list[dict]:
    return [finding for finding in told["findings"] if finding.get("digest") == digest]


@pytest.mark.parametrize("what", ["layer", "config", "manifest"])
def test_flipped_byte_is_found_put_aside_and_served_right_again(start_headpond, proxy, publish, what):
    headpond = start_headpond(rules_for(proxy.edge))
    image, other = publish(), publish()
    for one in (image, other):
        get_image(headpond, one)
    rotten = {"layer": image.largest_blob, "config": image.amd64.config, "manifest": image.digest}[what]
    content = image.root.content if what == "manifest" else image.blobs[rotten]
    wait_until(lambda: headpond.store.holds_all([*image.blobs, *other.blobs, image.digest]), "all is stored")
    assert scrub(headpond)[0] == 0

    rot(headpond.store, rotten)
    code, told = scrub(headpond)

    assert code == 1, told
    found = findings_of(told, rotten)
    assert found and {finding["outcome"] for finding in found} == {"quarantined"}, told
    assert len(told["findings"]) == len(found), "nothing else was wrong"
    get_image(headpond, image)
    get_image(headpond, other)
    assert digest_of(content) == rotten
    wait_until(lambda: headpond.store.holds(rotten), "it is stored again")
    headpond.store.check()
    assert scrub(headpond)[0] == 0


def test_scrub_without_a_server_says_so_and_works_offline(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish()
    get_image(headpond, image)
    wait_until(lambda: headpond.store.holds_all(image.blobs), "all is stored")
    assert headpond.stop() == 0
    rot(headpond.store, image.largest_blob)

    with pytest.raises(AssertionError, match="--offline"):
        scrub(headpond)
    options = ["--bucket"] if headpond.store.bucket else []
    code, told = command(headpond, "scrub", "--offline", "--rate", "0", *options)

    assert code == 1 and findings_of(told, image.largest_blob), told
    headpond.start()
    get_image(headpond, image)


@dataclass
class Beside:
    """Pulls, pushes, and blobs that nothing refers to, for as long as garbage is collected again and again."""

    servers: list[Headpond]
    images: list[Image]
    publish: Callable[..., Image]
    chance: random.Random
    orphans: list[str] = field(default_factory=list)
    pushed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    runs: list[dict] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def pull(self) -> None:
        while not self.ended.is_set():
            image, server = self.chance.choice(self.images), self.chance.choice(self.servers)
            try:
                get_image(server, image)
            except Exception as error:
                self.failed.append(f"{image.repository}: {error!r}")

    def publish_more(self) -> None:
        """New images, of which a layer may have been garbage for so long that it is about to be deleted."""
        while not self.ended.wait(NEW_IMAGE_SECONDS):
            image = self.publish("index")
            if self.chance.random() < 0.5:
                put_blob(self.servers[0].store, image.blobs[image.largest_blob])
                self.ended.wait(self.chance.uniform(0, 4 * GRACE_SECONDS))
            self.images.append(image)

    def leave_orphans(self) -> None:
        """As a push does that was given up."""
        store = self.servers[0].store
        while not self.ended.wait(0.3):
            content = os.urandom(ORPHAN_BYTES)
            put_blob(store, content)
            self.orphans.append(digest_of(content))

    def push(self) -> None:
        """Past the servers: images come and go, none of which may be refused or lost."""
        store = self.servers[0].store
        said = run_contract(
            store.bucket,
            "no_push_is_refused",
            "--nocapture",
            timeout=GC_SECONDS + 90,
            HEADPOND_TEST_PREFIX=store.prefix,
            HEADPOND_TEST_PUSH_SECONDS=str(GC_SECONDS),
        )
        print(re.search(r"^\d+ pushes$", said, re.MULTILINE)[0])
        self.pushed = re.findall(r"^pushed (\S+)$", said, re.MULTILINE)

    def collect(self) -> None:
        while not self.ended.is_set():
            server = self.chance.choice(self.servers)
            code, told = command(server, "gc", "--grace", f"{GRACE_SECONDS}s")
            if code != 0:
                self.failed.append(f"gc: {told}")
            self.runs.append(told)

    def has_deleted(self) -> bool:
        return len(self.runs) >= 3 and any(run["deleted"] for run in self.runs)

    def end(self) -> None:
        """A slow machine gets more time for three runs, one of which has to delete."""
        try:
            time.sleep(GC_SECONDS)
            wait_until(lambda: self.failed or self.has_deleted(), "three runs, of which one deletes", timeout=90)
        finally:
            self.ended.set()


def put_blob(store: Store, content: bytes) -> None:
    digest = digest_of(content)
    if store.bucket:
        store.bucket.put(store.key(digest), content)
        return
    path = store.file(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.name}.e2e")
    staged.write_bytes(content)
    staged.rename(path)


def second_over(headpond: Headpond, make_headpond, proxy, folder: Path) -> list[Headpond]:
    """Where there is a bucket, another replica of it, which knows nothing of the first."""
    if headpond.store.bucket is None:
        return []
    more = headpond.store.more
    store = Store(folder / "second-store", headpond.store.bucket, headpond.store.prefix, **more)
    return [make_headpond(rules_for(proxy.edge), folder / "second", store=store).start()]


@pytest.mark.timeout(GC_SECONDS + 300)
def test_garbage_collection_beside_pulls_and_pushes_loses_nothing_and_leaves_nothing(
    start_headpond, make_headpond, proxy, publish, tmp_path
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    first = start_headpond(rules_for(proxy.edge))
    servers = [first, *second_over(first, make_headpond, proxy, tmp_path)]
    beside = Beside(servers, [publish("index") for _ in range(20)], publish, random.Random(seed))
    try:
        pushes = [beside.push] if first.store.bucket else []
        at_once([*[beside.pull] * CLIENTS, *pushes, beside.publish_more, beside.leave_orphans, beside.collect, beside.end])
        assert not beside.failed, beside.failed[:5]
        assert len(beside.runs) >= 3
        deleted = sum(run["deleted"] for run in beside.runs)
        assert deleted > 0, "nothing was deleted beside pulls"
        # What is deleted though something refers to it is fetched again, and nobody notices.
        for digest in [digest for image in beside.images for digest in image.blobs]:
            assert proxy.journal.count("GET", digest) <= len(servers), f"{digest} was lost"
        for image in beside.images:
            get_image(first, image)
        for server in servers:
            server.quiet()
        wait_until(lambda: all(first.store.holds_all(image.blobs) for image in beside.images), "all is stored")
        time.sleep(GRACE_SECONDS + 1)
        for _ in range(2):
            code, told = command(first, "gc", "--grace", f"{GRACE_SECONDS}s")
            assert code == 0, told
            time.sleep(GRACE_SECONDS + 1)
        assert command(first, "gc", "--grace", f"{GRACE_SECONDS}s")[0] == 0
        print(f"{len(beside.runs)} runs beside pulls, which deleted {deleted}; {len(beside.orphans)} orphans, "
              f"{len(beside.images)} images")
        assert not [digest for digest in beside.orphans if first.store.holds(digest)]
        assert first.store.holds_all(beside.pushed) and bool(beside.pushed) == bool(pushes)
        proxy.refuse()
        for image in beside.images:
            assert first.store.holds_all(image.blobs)
            for server in servers:
                get_image(server, image)
        first.store.check()
    finally:
        for server in servers[1:]:
            server.stop()


def test_dry_run_tells_what_would_go_and_changes_nothing(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge))
    image, orphan = publish(), os.urandom(ORPHAN_BYTES)
    get_image(headpond, image)
    put_blob(headpond.store, orphan)
    wait_until(lambda: headpond.store.holds_all(image.blobs), "all is stored")

    def one_would_go() -> bool:
        """Once the manifest is recorded, too, which is behind its answer."""
        code, told = command(headpond, "gc", "--dry-run", "--grace", "0")
        assert code == 0 and told["dry_run"] and headpond.store.holds(digest_of(orphan))
        return told["marked"] + told["deleted"] == 1

    wait_until(one_would_go, "one would go")
    assert command(headpond, "gc", "--grace", "0")[0] == 0
    wait_until(lambda: not headpond.store.holds(digest_of(orphan)), "the orphan is gone")
    get_image(headpond, image)
