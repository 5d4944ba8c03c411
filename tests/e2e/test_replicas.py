"""Three replicas over one bucket, each on a host of its own: one upstream transfer for all, and no one's end is another's.

"Held" means that the upstream stands still in the middle of a blob: what happens then happens in mid-transfer.
"""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from parts.crowd import Follower, at_once
from parts.headpond import Headpond
from parts.images import Image
from parts.network import Network
from parts.process import wait_until
from parts.proxy import Proxy, in_front_of
from parts.replicas import Replicas
from parts.upkeep import command, scrub
from parts.way import expected

pytestmark = pytest.mark.own_store
CLIENTS = 60
LAYER_BYTES = 200_000_000
PARALLEL_LAYER_BYTES = 60_000_000
CUT_LAYER_BYTES = 40_000_000
CONNECTION_BYTES_PER_SECOND = 5_000_000
# An upstream that is held stands still for longer than it may.
HELD = {"stall_timeout": "2min"}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def gateway(network, ceph):
    return ceph.gateway(network.address)


@pytest.fixture
def upstream(registry, network) -> Iterator[Proxy]:
    with in_front_of(registry.edge, network.address) as proxy:
        yield proxy


@pytest.fixture
def start_replicas(tmp_path, network, gateway, upstream) -> Iterator[Callable[..., Replicas]]:
    started: list[Replicas] = []

    def start(**settings) -> Replicas:
        prefix = f"replicas-{tmp_path.name}-{len(started)}"
        started.append(Replicas(tmp_path / f"replicas-{len(started)}", network, gateway, upstream, prefix, **settings))
        return started[-1].start()

    yield start
    network.heal()
    for replicas in started:
        replicas.stop()


def manifest_path(image: Image) -> str:
    return f"/v2/{image.repository}/manifests/{image.tag}"


def blob_path(image: Image, digest: str) -> str:
    return f"/v2/{image.repository}/blobs/{digest}"


def know_the_image(replicas: Replicas, image: Image) -> None:
    for one in replicas.all:
        assert one.get(manifest_path(image)).digest == image.digest


def follow(replicas: Replicas, image: Image, clients: int) -> dict[Follower, Headpond]:
    path = blob_path(image, image.largest_blob)
    return {Follower(one.edge, path): one for one in replicas.spread(clients)}


def follow_to(fraction: float, replicas: Replicas, image: Image, clients: int) -> dict[Follower, Headpond]:
    """Clients that have nearly all of what a held upstream has sent."""
    followers = follow(replicas, image, clients)
    enough = fraction * len(image.blobs[image.largest_blob])
    wait_until(lambda: min(one.received for one in followers) >= enough, f"all have {fraction:.0%}", timeout=60)
    return followers


@pytest.mark.timeout(300)
def test_sixty_clients_of_three_replicas_cost_one_transfer_and_all_stream(start_replicas, upstream, publish):
    replicas = start_replicas(limits=HELD)
    image = publish(layer_bytes=LAYER_BYTES)
    blob, size_bytes = image.largest_blob, len(image.blobs[image.largest_blob])
    know_the_image(replicas, image)
    gate = upstream.hold_bodies(blob, size_bytes // 2)

    followers = follow_to(0.4, replicas, image, CLIENTS)
    gate.open()
    with ThreadPoolExecutor(CLIENTS) as pool:
        digests = list(pool.map(lambda one: one.finish(200), followers))

    assert digests == [blob] * CLIENTS
    wait_until(lambda: replicas.store.holds(blob), "the bucket has it", timeout=60)
    replicas.quiet()
    assert upstream.journal.count("GET", blob) == 1
    assert upstream.journal.body_bytes(blob) == size_bytes
    assert upstream.journal.count("GET", manifest_path(image)) == 1


@pytest.mark.timeout(300)
def test_sixty_clients_cost_one_transfer_by_several_connections_too(start_replicas, upstream, publish):
    """As it is by default, on a line where a connection has a rate of its own: otherwise one may do as well as more.

    A disk that stands still just when the rate is measured keeps a blob to one, rightly: hence more than one blob.
    """
    replicas = start_replicas(connections=4)
    upstream.bytes_per_second = CONNECTION_BYTES_PER_SECOND
    requests = []
    for _ in range(3):
        image = publish(layer_bytes=PARALLEL_LAYER_BYTES)
        blob, size_bytes = image.largest_blob, len(image.blobs[image.largest_blob])
        know_the_image(replicas, image)

        followers = follow(replicas, image, CLIENTS)
        with ThreadPoolExecutor(CLIENTS) as pool:
            digests = list(pool.map(lambda one: one.finish(200), followers))

        assert digests == [blob] * CLIENTS
        wait_until(lambda: replicas.store.holds(blob), "the bucket has it", timeout=60)
        replicas.quiet()
        assert len({seen.client for seen in upstream.journal.all("GET", blob)}) == 1, "one of them asks, for all"
        requests.append(upstream.journal.count("GET", blob))
        sent_bytes = upstream.journal.body_bytes(blob)
        print(f"upstream sent {sent_bytes} of {size_bytes} bytes in {requests[-1]} requests")
        assert size_bytes <= sent_bytes <= 1.05 * size_bytes
    assert sorted(requests)[1] > 1, requests


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["owner", "other"])
def test_replica_killed_in_mid_transfer_breaks_off_its_own_clients_only(start_replicas, upstream, publish, victim):
    replicas = start_replicas(limits=HELD)
    image = publish(layer_bytes=LAYER_BYTES)
    blob, size_bytes = image.largest_blob, len(image.blobs[image.largest_blob])
    know_the_image(replicas, image)
    gate = upstream.hold_bodies(blob, size_bytes // 2)
    followers = follow_to(0.4, replicas, image, CLIENTS)
    owner = replicas.filling_from_upstream(blob)
    killed = owner if victim == "owner" else next(one for one in replicas.all if one is not owner)

    killed.kill()
    gate.open()

    for follower, replica in followers.items():
        if replica is killed:
            assert follower.is_cut_off(200)
        else:
            assert follower.finish(200) == blob
    assert upstream.journal.body_bytes(blob) <= 2 * size_bytes
    wait_until(lambda: replicas.store.holds(blob), "the bucket has it", timeout=60)
    replicas.store.check()


def test_replicas_with_different_peer_lists_serve_right_bytes_and_never_loop(start_replicas, upstream, publish):
    """Each knows the next one and not itself, so each asks that one for everything: a ring."""
    replicas = start_replicas(peers=lambda number: [(number + 1) % 3])
    images = [publish() for _ in range(12)]

    def pull(one: Headpond, image: Image) -> None:
        assert one.get(manifest_path(image)).digest == image.digest
        for digest in image.blobs:
            assert one.get(blob_path(image, digest)).digest == digest

    at_once([lambda one=one, image=image: pull(one, image) for image in images for one in replicas.all])

    for image in images:
        for digest in image.blobs:
            assert upstream.journal.count("GET", digest) <= len(replicas.all)
    replicas.quiet()


def test_two_replicas_with_different_peer_lists_cost_at_most_two_transfers(start_replicas, upstream, publish):
    replicas = start_replicas(count=2, peers=lambda number: [1 - number])
    image = publish(layer_bytes=CUT_LAYER_BYTES)
    know_the_image(replicas, image)

    followers = follow(replicas, image, 10)

    assert {one.finish() for one in followers} == {image.largest_blob}
    assert upstream.journal.body_bytes(image.largest_blob) <= 2 * len(image.blobs[image.largest_blob])


@pytest.mark.timeout(240)
def test_replicas_cut_from_each_other_in_mid_transfer_end_every_pull(start_replicas, network, upstream, publish):
    """The cut is silent: nothing is refused, nothing is reset. Upstream and bucket are reached by all."""
    replicas = start_replicas(limits={"stall_timeout": "3s"})
    image = publish(layer_bytes=CUT_LAYER_BYTES)
    blob, size_bytes = image.largest_blob, len(image.blobs[image.largest_blob])
    know_the_image(replicas, image)
    gate = upstream.hold_bodies(blob, size_bytes // 2)
    followers = follow_to(0.4, replicas, image, 12)

    network.cut()
    gate.open()

    assert {one.finish(120) for one in followers} == {blob}
    assert upstream.journal.body_bytes(blob) <= len(replicas.all) * size_bytes
    late = publish()
    for one in replicas.all:
        assert one.get(manifest_path(late)).digest == late.digest
        assert one.get(blob_path(late, late.largest_blob), timeout=60).digest == late.largest_blob
    network.heal()
    replicas.quiet()
    replicas.store.check()


@pytest.mark.parametrize("name", ["skopeo", "ctr_hosts_toml_ns", "podman_prefix", "docker_registry_mirrors"])
def test_what_one_replica_pulled_every_replica_serves_without_the_upstream(
    start_replicas, upstream, publish, clients, name
):
    replicas = start_replicas()
    image, way = publish("index"), clients.ways[name]
    first, *others = replicas.all
    assert way.pull(first.edge, image, "tag") == expected(image)
    first.quiet()
    pulled = [digest for digest in image.blobs if upstream.journal.count("GET", digest)]
    wait_until(lambda: replicas.store.holds_all(pulled), "the bucket has what was pulled", timeout=30)

    upstream.refuse()

    for one in others:
        assert way.pull(one.edge, image, "tag") == expected(image)
        assert way.pull(one.edge, image, "digest") == expected(image)


@pytest.mark.timeout(120)
def test_what_a_killed_replica_owes_the_bucket_is_sent_after_its_restart(start_replicas, gateway, upstream, publish):
    replicas = start_replicas(limits=HELD)
    image = publish(layer_bytes=CUT_LAYER_BYTES)
    blob, size_bytes = image.largest_blob, len(image.blobs[image.largest_blob])
    know_the_image(replicas, image)
    gate = upstream.hold_bodies(blob, size_bytes // 2)
    followers = follow_to(0.4, replicas, image, 6)
    owner = replicas.filling_from_upstream(blob)

    gateway.stop()
    try:
        gate.open()
        assert {one.finish() for one in followers} == {blob}
        wait_until(lambda: owner.store.file(blob).is_file(), "it is on the owner's disk", timeout=60)
        owner.kill()
    finally:
        gateway.come_back()

    assert not replicas.store.holds(blob)
    owner.start()
    wait_until(lambda: replicas.store.holds(blob), "the bucket has it, and nobody has asked for it", timeout=60)
    assert upstream.journal.count("GET", blob) == 1
    replicas.store.check()


ROUNDS = 20
ROUND_LAYER_BYTES = 6_000_000
BYTES_PER_SECOND = 12_000_000
LATEST_KILL_SECONDS = 0.7

def collect(one: Headpond, _: Image) -> None:
    code, told = command(one, "gc", "--grace", "3s")
    assert code == 0, told


def look_through(one: Headpond, _: Image) -> None:
    """What another replica sent, and the bucket does not have yet, may be taken for lost."""
    _, told = scrub(one)
    assert {finding["outcome"] for finding in told["findings"]} <= {"sent_again"}, told


def ask_upstream_now(one: Headpond, image: Image) -> None:
    assert one.get(manifest_path(image), headers={"Cache-Control": "no-cache"}).digest == image.digest


# What goes on beside a pull, at one of the replicas.
BESIDE = [collect, look_through, ask_upstream_now]


@dataclass
class Round:
    """One of them is killed at a random moment of a pull, in which all have clients."""

    replicas: Replicas
    image: Image
    chance: random.Random

    def run(self) -> Headpond:
        """Clients of the others end right; the victim's may be broken off. Returns the victim."""
        victim, moment = self.chance.choice(self.replicas.all), self.chance.uniform(0, LATEST_KILL_SECONDS)
        beside, busy = self.chance.choice(BESIDE), self.chance.choice(self.replicas.all)
        followers = follow(self.replicas, self.image, 6)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(beside, busy, self.image)
            time.sleep(moment)
            victim.kill()
            failure = ended.exception(60)
        assert failure is None or busy is victim, (beside.__name__, failure)
        for follower, replica in followers.items():
            if replica is not victim or not follower.is_cut_off():
                assert follower.finish() == self.image.largest_blob
        return victim

    def owed(self, victim: Headpond, upstream: Proxy) -> list[str]:
        """Blobs that whoever got them from upstream has on its disk: the bucket gets them from there."""
        for one in self.replicas.all:
            if one is not victim:
                one.quiet()
        return [
            digest
            for digest in self.image.blobs
            for seen in upstream.journal.all("GET", digest)
            for one in self.replicas.all
            if one.host.address == seen.client and one.store.file(digest).is_file()
        ]


@pytest.mark.timeout(300)
def test_nothing_is_wrong_or_lost_after_replicas_are_killed_at_any_moment(start_replicas, upstream, publish):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    replicas = start_replicas(limits={"stall_timeout": "3s"})
    pulled, interrupted, noted = [], 0, 0
    for _ in range(ROUNDS):
        image = publish(layer_bytes=ROUND_LAYER_BYTES)
        upstream.bytes_per_second = BYTES_PER_SECOND
        know_the_image(replicas, image)
        this = Round(replicas, image, chance)
        victim = this.run()
        interrupted += bool(victim.store.staged())
        upstream.bytes_per_second = None
        owed = this.owed(victim, upstream)
        noted += any(victim.store.file(digest).is_file() for digest in victim.store.noted())
        victim.start()
        wait_until(lambda owed=owed: replicas.store.holds_all(owed), "the bucket has what it is owed", timeout=60)
        asked = {digest: upstream.journal.count("GET", digest) for digest in image.blobs if replicas.store.holds(digest)}
        for digest in image.blobs:
            assert victim.get(blob_path(image, digest)).digest == digest
        for digest, before in asked.items():
            assert upstream.journal.count("GET", digest) == before, "what the bucket had is fetched again"
        pulled.append(image)
    print(f"{interrupted} kills fell into a fill, {noted} between a disk and the bucket")
    replicas.quiet()
    wait_until(lambda: all(replicas.store.holds_all(image.blobs) for image in pulled), "all is stored", timeout=60)
    replicas.store.check()
    wait_until(lambda: not any(one.store.staged() for one in replicas.all), "nothing is left of what was broken off")
    upstream.refuse()
    for image in pulled:
        for one in replicas.all:
            assert one.get(manifest_path(image)).digest == image.digest
            assert all(one.get(blob_path(image, digest)).digest == digest for digest in image.blobs)
    assert interrupted >= ROUNDS // 4, "too few kills fell into a fill to mean anything"
