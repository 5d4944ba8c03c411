"""A hundred clients on one cold blob: the upstream sends it once, in little memory."""

import pytest

from parts.crowd import Follower, at_once, get_many
from parts.headpond import rules_for
from parts.process import wait_until
from parts.way import expected

CLIENTS = 100
LAYER_BYTES = 200_000_000
MEMORY_LIMIT_BYTES = 256 << 20


@pytest.mark.timeout(300)
def test_hundred_clients_on_one_cold_blob_cost_one_transfer(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge, connections=1))
    image = publish(layer_bytes=LAYER_BYTES)
    assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").status == 200
    blob, path = image.largest_blob, f"/v2/{image.repository}/blobs/{image.largest_blob}"

    answers = get_many(headpond.edge, path, CLIENTS, timeout=250)

    assert len(answers) == CLIENTS
    assert {answer.digest for answer in answers} == {blob}
    assert proxy.journal.count("GET", blob) == 1
    assert proxy.journal.body_bytes(blob) == len(image.blobs[blob])
    peak_bytes = headpond.peak_memory_bytes()
    print(f"peak memory {peak_bytes >> 20} MiB")
    assert peak_bytes < MEMORY_LIMIT_BYTES


def test_clients_of_every_sort_at_once_cost_one_transfer(start_headpond, clients, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish("index", layer_bytes=5_000_000)
    names = ["skopeo", "ctr_prefix", "podman_prefix", "docker_prefix"]

    pulled = at_once([lambda way=clients.ways[name]: way.pull(headpond.edge, image, "tag") for name in names])

    assert pulled == [expected(image)] * len(names)
    blobs = [digest for digest in image.blobs if proxy.journal.count("GET", digest)]
    assert set(image.amd64.layers) <= set(blobs)
    assert all(proxy.journal.count("GET", digest) == 1 for digest in blobs)


def test_followers_have_what_the_upstream_has_sent_so_far(start_headpond, proxy, publish):
    """The upstream stands still at half of the blob: nobody waits for the end to get the beginning."""
    headpond = start_headpond(rules_for(proxy.edge, connections=1), limits={"stall_timeout": "2min"})
    image = publish(layer_bytes=64_000_000)
    blob = image.largest_blob
    size_bytes = len(image.blobs[blob])
    gate = proxy.hold_bodies(blob, size_bytes // 2)
    followers = [Follower(headpond.edge, f"/v2/{image.repository}/blobs/{blob}") for _ in range(20)]

    assert gate.reached.wait(20)
    wait_until(lambda: min(one.received for one in followers) >= 0.45 * size_bytes, "all have 45 %", timeout=60)
    gate.open()

    assert {one.finish() for one in followers} == {blob}
    assert proxy.journal.count("GET", blob) == 1
