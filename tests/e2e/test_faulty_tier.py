"""A disk that turns read-only or has no more files to give, alone or before a bucket: clients are served all the same."""

from collections.abc import Callable, Iterator

import pytest

from parts.crowd import Follower, get_many
from parts.headpond import Headpond, rules_for
from parts.images import Image
from parts.process import wait_until
from parts.stores import Store
from parts.tmpfs import Tmpfs
from parts.way import expected

pytestmark = pytest.mark.own_store
DISK_BYTES = 256 << 20
LAYER_BYTES = 3_000_000
FILES = 400
NAMES = ["skopeo", "ctr_hosts_toml_ns", "podman_prefix", "docker_prefix"]
FAULTS: dict[str, Callable[[Tmpfs], None]] = {"read_only": Tmpfs.turn_read_only, "no_inodes": Tmpfs.use_up_inodes}
MENDS: dict[str, Callable[[Tmpfs], None]] = {"read_only": Tmpfs.turn_writable, "no_inodes": Tmpfs.free_inodes}


@pytest.fixture
def disk(tmp_path) -> Iterator[Tmpfs]:
    made = Tmpfs(tmp_path / "disk", DISK_BYTES, inodes=FILES)
    yield made
    made.unmount()


@pytest.fixture(params=["disk", "tier"])
def headpond(request, start_headpond, proxy, disk, tmp_path) -> Headpond:
    store = Store(disk.store)
    if request.param == "tier":
        bucket = request.getfixturevalue("ceph").bucket
        store = Store(disk.store, bucket, f"faulty-{tmp_path.name}", max_size="128MiB")
    return start_headpond(rules_for(proxy.edge), store=store)


def get_image(headpond: Headpond, image: Image) -> None:
    assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").digest == image.digest
    for digest in image.blobs:
        answers = get_many(headpond.edge, f"/v2/{image.repository}/blobs/{digest}", 3)
        assert {answer.digest for answer in answers} == {digest}


def check_the_fault_is_felt(headpond: Headpond) -> None:
    """What came meanwhile went past the store; not all of it, where a note that was removed has left a file to take."""
    assert headpond.total("headpond_cache_requests_total", kind="blob", result="bypass") >= 1


@pytest.mark.parametrize("fault", FAULTS)
def test_clients_are_served_hits_and_misses_and_the_server_goes_on(headpond, disk, publish, fault):
    warm, cold, late = (publish(layer_bytes=LAYER_BYTES) for _ in range(3))
    get_image(headpond, warm)
    headpond.quiet()

    FAULTS[fault](disk)

    for image in (warm, cold, warm):
        get_image(headpond, image)
    assert headpond.ready() == 200
    check_the_fault_is_felt(headpond)
    MENDS[fault](disk)
    get_image(headpond, late)
    wait_until(lambda: headpond.store.holds(late.largest_blob), "what came after the fault is stored", timeout=20)
    headpond.store.check()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_client_pulls_through_a_faulty_disk(headpond, disk, publish, clients, name, fault):
    image = publish("index", layer_bytes=LAYER_BYTES)
    FAULTS[fault](disk)

    assert clients.ways[name].pull(headpond.edge, image, "tag") == expected(image)
    MENDS[fault](disk)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_mid_fill_breaks_no_client_off(headpond, disk, proxy, publish, fault):
    image = publish(layer_bytes=LAYER_BYTES)
    blob, size_bytes = image.largest_blob, len(image.blobs[image.largest_blob])
    assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").digest == image.digest
    gate = proxy.hold_bodies(blob, size_bytes // 2)
    followers = [Follower(headpond.edge, f"/v2/{image.repository}/blobs/{blob}") for _ in range(5)]
    wait_until(lambda: min(one.received for one in followers) > size_bytes // 4, "all are under way")

    FAULTS[fault](disk)
    gate.open()

    assert {one.finish() for one in followers} == {blob}
    MENDS[fault](disk)
