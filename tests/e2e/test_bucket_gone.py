"""The bucket stops, or hangs: what the tier has is served, what it has not comes from upstream, and is stored later."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from parts.ceph import Gateway
from parts.crowd import Follower
from parts.headpond import Headpond, rules_for
from parts.images import Image
from parts.process import wait_until
from parts.proxy import Proxy
from parts.readiness import always_ready
from parts.stores import Store
from parts.way import expected

pytestmark = pytest.mark.own_store
WAYS_TO_GO: dict[str, Callable[[Gateway], None]] = {"stopped": Gateway.stop, "hanging": Gateway.hang}
NAMES = ["skopeo", "ctr_hosts_toml_ns", "cri", "podman_prefix", "docker_registry_mirrors"]
AT_ONCE_SECONDS = 1.0
# A hanging bucket is waited for once; those who come later find that out at no cost.
FIRST_WAIT_SECONDS = 40.0
# So long what is in memory is believed, where replicas share a bucket: longer than it takes to put it there.
BELIEVED_SECONDS = 20
LAYER_BYTES = 20_000_000


@pytest.fixture
def gateway(ceph) -> Iterator[Gateway]:
    """A way to the bucket of the test's own, so that no other test misses it."""
    made = ceph.gateway()
    yield made
    made.come_back()
    made.stop()


def over(gateway: Gateway) -> dict:
    """A tier whose way to the bucket is this one. The test looks into the bucket past it."""
    return {"max_size": "4GiB", "s3": {"endpoint": gateway.edge.url}}


@dataclass(frozen=True)
class Front:
    headpond: Headpond
    gateway: Gateway
    proxy: Proxy

    def get_image(self, image: Image, timeout: float = 60.0) -> None:
        assert self.headpond.get(f"/v2/{image.repository}/manifests/{image.tag}", timeout=timeout).digest == image.digest
        for digest in image.blobs:
            assert self.headpond.get(f"/v2/{image.repository}/blobs/{digest}", timeout=timeout).digest == digest

    def seconds_of(self, image: Image) -> float:
        started = time.monotonic()
        self.get_image(image)
        return time.monotonic() - started

    def wait_until_stored(self, *images: Image) -> None:
        for image in images:
            digests = [*image.blobs, *(manifest.digest for manifest in image.manifests)]
            wait_until(lambda: self.headpond.store.holds_all(digests), "the bucket has it", timeout=90, pause=0.2)


@pytest.fixture
def front(start_headpond, ceph, gateway, proxy, tmp_path) -> Front:
    store = Store(tmp_path / "store", ceph.bucket, f"gone-{tmp_path.name}", **over(gateway))
    limits = {"view_ttl": f"{BELIEVED_SECONDS}s"}
    return Front(start_headpond(rules_for(proxy.edge), store=store, limits=limits), gateway, proxy)


@pytest.mark.parametrize("way_to_go", WAYS_TO_GO)
def test_hits_of_the_tier_are_served_at_once_without_bucket_and_upstream(front: Front, publish, way_to_go):
    images = [publish() for _ in range(4)]
    for image in images:
        front.get_image(image)
    front.wait_until_stored(*images)
    WAYS_TO_GO[way_to_go](front.gateway)
    front.proxy.refuse()

    with always_ready(front.headpond):
        took = [front.seconds_of(image) for image in images]
        print("seconds", took)
        assert max(took) < AT_ONCE_SECONDS
        time.sleep(BELIEVED_SECONDS + 2)
        took = [front.seconds_of(image) for image in images]
        print("seconds, later", took)


@pytest.mark.parametrize("way_to_go", WAYS_TO_GO)
@pytest.mark.parametrize("name", NAMES)
def test_client_pulls_what_is_not_cached_from_upstream(front: Front, publish, clients, name, way_to_go):
    WAYS_TO_GO[way_to_go](front.gateway)
    image = publish("index")

    with always_ready(front.headpond):
        assert clients.ways[name].pull(front.headpond.edge, image, "tag") == expected(image)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way_to_go", WAYS_TO_GO)
def test_misses_are_streamed_and_stored_once_the_bucket_is_back(
    front: Front, make_headpond, publish, tmp_path, way_to_go
):
    cold = [publish(layer_bytes=LAYER_BYTES), publish()]
    WAYS_TO_GO[way_to_go](front.gateway)
    blob, size_bytes = cold[0].largest_blob, len(cold[0].blobs[cold[0].largest_blob])
    with always_ready(front.headpond):
        assert front.headpond.get(f"/v2/{cold[0].repository}/manifests/{cold[0].tag}").digest == cold[0].digest
        gate = front.proxy.hold_bodies(blob, size_bytes // 2)
        follower = Follower(front.headpond.edge, f"/v2/{cold[0].repository}/blobs/{blob}")
        wait_until(lambda: follower.received >= 0.4 * size_bytes, "it streams", timeout=FIRST_WAIT_SECONDS)
        gate.open()
        assert follower.finish() == blob
        for image in cold:
            front.get_image(image)

        front.gateway.come_back()
        front.wait_until_stored(*cold)

    front.headpond.store.check()
    front.proxy.refuse()
    store = Store(tmp_path / "other", front.headpond.store.bucket, front.headpond.store.prefix, **over(front.gateway))
    other = make_headpond(rules_for(front.proxy.edge), tmp_path / "other-headpond", store=store).start()
    try:
        for image in cold:
            Front(other, front.gateway, front.proxy).get_image(image)
    finally:
        other.stop()


@pytest.mark.parametrize("way_to_go", WAYS_TO_GO)
def test_bucket_that_goes_in_mid_upload_breaks_no_client_off(front: Front, publish, way_to_go):
    image = publish(layer_bytes=LAYER_BYTES)
    blob, size_bytes = image.largest_blob, len(image.blobs[image.largest_blob])
    assert front.headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").digest == image.digest
    gate = front.proxy.hold_bodies(blob, int(size_bytes * 0.7))
    followers = [Follower(front.headpond.edge, f"/v2/{image.repository}/blobs/{blob}") for _ in range(5)]
    wait_until(lambda: min(one.received for one in followers) > size_bytes // 2, "all are under way")

    with always_ready(front.headpond):
        WAYS_TO_GO[way_to_go](front.gateway)
        gate.open()

        assert {one.finish() for one in followers} == {blob}
        assert front.proxy.journal.count("GET", blob) == 1
        front.gateway.come_back()
        wait_until(lambda: front.headpond.store.holds(blob), "the bucket has it", timeout=90, pause=0.2)
    front.headpond.store.check()


@pytest.mark.parametrize("way_to_go", WAYS_TO_GO)
def test_headpond_starts_without_the_bucket(front: Front, publish, way_to_go):
    warm, cold = publish(), publish()
    front.get_image(warm)
    front.wait_until_stored(warm)
    assert front.headpond.stop() == 0
    WAYS_TO_GO[way_to_go](front.gateway)

    front.headpond.start()

    with always_ready(front.headpond):
        asked = {digest: front.proxy.journal.count("GET", digest) for digest in warm.blobs}
        front.get_image(warm)
        assert asked == {digest: front.proxy.journal.count("GET", digest) for digest in warm.blobs}, "the tier has it"
        front.get_image(cold)
        front.gateway.come_back()
        front.wait_until_stored(warm, cold)
