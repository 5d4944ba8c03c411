"""A disk with no room, alone or before a bucket: all clients get the whole blob, nothing of it is kept, and the operator
is told once."""

from collections.abc import Iterator

import pytest

from parts.crowd import at_once, get_many
from parts.edge import request
from parts.headpond import Headpond, rules_for
from parts.images import Image
from parts.process import wait_until
from parts.stores import Store
from parts.tmpfs import Tmpfs
from parts.way import expected

pytestmark = pytest.mark.own_store
STORE_BYTES = 64 << 20
ROOM_BYTES = 6 << 20
LAYER_BYTES = 20_000_000


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Tmpfs]:
    made = Tmpfs(tmp_path / "disk", STORE_BYTES)
    yield made
    made.unmount()


@pytest.fixture(params=["disk", "tier"])
def headpond(request, start_headpond, proxy, small_disk, tmp_path) -> Headpond:
    store = Store(small_disk.store)
    if request.param == "tier":
        bucket = request.getfixturevalue("ceph").bucket
        store = Store(small_disk.store, bucket, f"full-{tmp_path.name}", max_size=f"{STORE_BYTES >> 20}MiB")
    return start_headpond(rules_for(proxy.edge), store=store)


def lines_that_say_not_kept(headpond: Headpond, digest: str) -> list[str]:
    return [line for line in headpond.log_lines("not kept") if digest in line]


def check_told_and_not_kept(headpond: Headpond, digest: str) -> None:
    assert headpond.total("headpond_cache_requests_total", kind="blob", result="bypass") >= 1
    wait_until(lambda: lines_that_say_not_kept(headpond, digest), "the log says the blob was not kept", timeout=5)
    assert len(lines_that_say_not_kept(headpond, digest)) == 1
    assert digest.removeprefix("sha256:") not in {path.name for path in headpond.store.files()}
    assert not headpond.store.holds(digest)
    wait_until(lambda: not headpond.store.staged(), "staging is empty", timeout=10)
    wait_until(lambda: not headpond.store.uploads(), "nothing of it is left in the bucket", timeout=10)


def blob_path(image: Image) -> str:
    return f"/v2/{image.repository}/blobs/{image.largest_blob}"


def test_store_full_before_a_fill_gives_all_clients_the_whole_blob(headpond, publish, small_disk):
    image = publish(layer_bytes=LAYER_BYTES)
    small_disk.leave(ROOM_BYTES)
    assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").digest == image.digest

    answers = get_many(headpond.edge, blob_path(image), 5)

    assert {answer.digest for answer in answers} == {image.largest_blob}
    check_told_and_not_kept(headpond, image.largest_blob)


@pytest.mark.parametrize("name", ["skopeo", "ctr_hosts_toml_ns", "cri", "podman_prefix", "docker_prefix", "buildah"])
def test_store_full_before_a_fill_lets_every_client_pull(headpond, clients, publish, small_disk, name):
    image = publish(layer_bytes=LAYER_BYTES)
    small_disk.leave(ROOM_BYTES)

    assert clients.ways[name].pull(headpond.edge, image, "tag") == expected(image)
    check_told_and_not_kept(headpond, image.largest_blob)


def test_store_filling_up_during_a_fill_gives_all_clients_the_whole_blob(headpond, proxy, publish, small_disk):
    """The upstream tells no length and no manifest was read: nothing could be reserved before the disk was full."""
    image = publish(layer_bytes=LAYER_BYTES)
    proxy.hides_length = True
    small_disk.leave(ROOM_BYTES)

    answers = get_many(headpond.edge, blob_path(image), 5)

    assert {answer.digest for answer in answers} == {image.largest_blob}
    check_told_and_not_kept(headpond, image.largest_blob)


def test_another_writer_filling_the_disk_in_mid_fill_harms_no_client(headpond, proxy, publish, small_disk):
    """Every client has some of the blob when the room runs out."""
    image = publish(layer_bytes=LAYER_BYTES)
    proxy.hides_length = True
    gate = proxy.hold_bodies(image.largest_blob, ROOM_BYTES)

    def fill_the_disk():
        assert gate.reached.wait(20)
        small_disk.leave(ROOM_BYTES // 4)
        gate.open()

    pull = lambda: request(headpond.edge, blob_path(image), keep_body=False)
    *answers, _ = at_once([pull, pull, pull, fill_the_disk])

    assert {answer.digest for answer in answers} == {image.largest_blob}
    check_told_and_not_kept(headpond, image.largest_blob)
