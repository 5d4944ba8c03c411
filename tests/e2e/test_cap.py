"""A size cap under load: never exceeded, no pull fails, and what is kept is what an exact LRU would keep.

A fifth of the size that the issue asks for, in the suite; all of it with E2E_LONG=1 (`make e2e-long`).
"""

import os
import random
import threading
from dataclasses import dataclass, field

import pytest

from parts.crowd import at_once
from parts.headpond import Headpond, rules_for
from parts.images import Image
from parts.lru import ExactLru
from parts.process import wait_until
from parts.stores import Store
from parts.usage import UsageSamples, used_bytes

pytestmark = pytest.mark.own_store
IS_LONG = bool(os.environ.get("E2E_LONG"))
CAP_BYTES = (1024 if IS_LONG else 205) << 20
LOAD_BYTES = 5 * CAP_BYTES
LAYER_BYTES = CAP_BYTES // 80
IMAGES = 240
# The first of them are asked for most of the time. First in, first out loses those again and again: over 300 of these
# loads it kept 12 % less than an exact LRU, at the median.
HOT_IMAGES = 40
HOT_CHANCE = 0.6
CLIENTS = 20
# Nodes that have the layers ask for the manifest alone. That keeps the layers, too.
MANIFEST_ALONE_CHANCE = 0.5
# Of the LRU's own ratio. In the suite, where a fifth of the load decides, it may be a little
# more: of 1,000 such loads first in, first out kept as much in 4 %.
RATIO_TOLERANCE = 0.05 if IS_LONG else 0.08


@dataclass
class Load:
    """Random pulls, most of few images, and the order in which they were asked for."""

    headpond: Headpond
    images: list[Image]
    chance: random.Random
    left_bytes: int = LOAD_BYTES
    asked: list[tuple[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    # How many of those asks came before the load.
    before: int = 0

    def fill_the_bucket(self) -> None:
        """What the bucket does not have yet stays on the disk, whatever an LRU says: so it gets all of them first.

        A client pulls the next one when the bucket has the last: a disk that is full of those keeps no more.
        """
        unseen, store = list(self.images), self.headpond.store

        def pull_what_is_left() -> None:
            while True:
                with self.lock:
                    if not unseen:
                        return
                    image = unseen.pop()
                self._pull(image, alone=False)
                wait_until(lambda image=image: store.holds_all(image.blobs), "the bucket has it", timeout=120, pause=0.1)

        at_once([pull_what_is_left] * CLIENTS)
        self.headpond.quiet()
        self.before = len(self.asked)

    def pull_until_done(self) -> None:
        while True:
            with self.lock:
                if self.left_bytes <= 0:
                    return
                hot = self.chance.random() < HOT_CHANCE
                image = self.chance.choice(self.images[:HOT_IMAGES] if hot else self.images[HOT_IMAGES:])
                alone = self.chance.random() < MANIFEST_ALONE_CHANCE
                self.left_bytes -= 0 if alone else LAYER_BYTES
            self._pull(image, alone)

    def _pull(self, image: Image, alone: bool) -> None:
        self._ask(image, "manifests", image.tag, image.digest)
        for digest in () if alone else image.blobs:
            self._ask(image, "blobs", digest, digest)

    def _ask(self, image: Image, kind: str, reference: str, digest: str) -> None:
        with self.lock:
            # The one config that all of these images share is never far down.
            if digest != image.amd64.config:
                self.asked.append((kind, image.largest_blob))
        try:
            answer = self.headpond.get(f"/v2/{image.repository}/{kind}/{reference}", keep_body=False)
        except Exception as error:
            self.failed.append(f"{kind} {reference}: {error!r}")
            return
        if answer.digest != digest:
            self.failed.append(f"{kind} {reference}: {answer.status}")

    def simulated(self, capacity_bytes: int) -> ExactLru:
        """Its hits and misses are those of the load."""
        lru = ExactLru(capacity_bytes)
        for number, (kind, blob) in enumerate(self.asked):
            if number == self.before:
                lru.hits = lru.misses = 0
            lru.touch(blob) if kind == "manifests" else lru.ask(blob, LAYER_BYTES)
        return lru


def hit_ratio(load: Load, transfers: int) -> float:
    return 1 - transfers / sum(kind == "blobs" for kind, _ in load.asked[load.before :])


def blob_bytes_on_disk(headpond: Headpond) -> int:
    return sum(path.stat().st_blocks * 512 for path in headpond.store.files())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["disk", "tier"])
def test_cap_holds_under_random_pulls_and_keeps_what_lru_keeps(
    start_headpond, request, proxy, publish, tmp_path, kind
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    images = [publish("artifact", layer_bytes=LAYER_BYTES) for _ in range(IMAGES)]
    behind = (request.getfixturevalue("ceph").bucket, f"cap-{tmp_path.name}") if kind == "tier" else ()
    store = Store(tmp_path / "store", *behind, max_size=f"{CAP_BYTES >> 20}MiB", min_free="1MiB")
    headpond = start_headpond(rules_for(proxy.edge), store=store)
    load = Load(headpond, images, random.Random(seed))

    with UsageSamples(headpond) as usage:
        if kind == "tier":
            load.fill_the_bucket()
        transfers_before = filled_from_elsewhere(headpond, proxy, images, kind)
        at_once([load.pull_until_done] * CLIENTS)
        headpond.quiet()

    assert not load.failed, load.failed[:5]
    assert max(usage.samples) <= CAP_BYTES, f"{max(usage.samples)} of {CAP_BYTES} in {len(usage.samples)} samples"
    assert max(usage.samples) >= 0.9 * CAP_BYTES, "the cap was never near"
    overhead_bytes = used_bytes(headpond) - blob_bytes_on_disk(headpond)
    assert overhead_bytes < CAP_BYTES // 10, f"{overhead_bytes} are no blobs"
    lru = load.simulated(CAP_BYTES - overhead_bytes)
    from_disk = hit_ratio(load, filled_from_elsewhere(headpond, proxy, images, kind) - transfers_before)
    print(f"{len(usage.samples)} samples, most {max(usage.samples) >> 20} MiB of {CAP_BYTES >> 20} MiB; "
          f"hit ratio {from_disk:.3f}, exact LRU {lru.hit_ratio:.3f}")
    assert abs(from_disk - lru.hit_ratio) <= RATIO_TOLERANCE * lru.hit_ratio
    check_what_is_left(headpond, proxy, images)


def filled_from_elsewhere(headpond: Headpond, proxy, images: list[Image], kind: str) -> int:
    """Layers that were not on the disk when they were asked for.

    In front of a bucket most come from there, and no upstream sees them. Other blobs are too small to make a layer.
    """
    if kind == "disk":
        return sum(proxy.journal.count("GET", image.largest_blob) for image in images)
    return round(headpond.total("headpond_fill_bytes_total") / LAYER_BYTES)


def check_what_is_left(headpond: Headpond, proxy, images: list[Image]) -> None:
    """With upstream stopped, every image of which the store has all is pulled; whatever was in memory is gone."""
    proxy.refuse()
    assert headpond.stop() == 0
    headpond.start()
    complete = [image for image in images if headpond.store.holds_all(image.blobs)]
    assert len(complete) > IMAGES // 5
    for image in complete:
        assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").digest == image.digest
        for digest in image.blobs:
            assert headpond.get(f"/v2/{image.repository}/blobs/{digest}", keep_body=False).digest == digest
