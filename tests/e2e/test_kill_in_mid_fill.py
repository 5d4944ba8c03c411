"""kill -9 of the real binary in mid-fill: nothing partial is ever served, and no staged file stays behind."""

import http.client
import random
import time

import pytest

from parts.crowd import at_once
from parts.edge import request
from parts.headpond import Headpond, rules_for
from parts.images import Image
from parts.process import wait_until

ROUNDS = 20
LAYER_BYTES = 6_000_000
BYTES_PER_SECOND = 12_000_000
# A fill takes about half a second: most kills fall into it, some just before it and some just after.
LATEST_KILL_SECONDS = 0.6


def blob_path(image: Image, digest: str) -> str:
    return f"/v2/{image.repository}/blobs/{digest}"


def pull_until_killed(headpond: Headpond, image: Image, digest: str) -> None:
    """A client: whatever it gets to its end must be right; being cut off is what this test does to it."""
    try:
        answer = request(headpond.edge, blob_path(image, digest), timeout=10)
    except (OSError, http.client.HTTPException):
        return
    assert answer.digest == digest


def kill_at_a_random_moment(headpond: Headpond, image: Image, chance: random.Random) -> None:
    moment = chance.uniform(0, LATEST_KILL_SECONDS)

    def kill():
        time.sleep(moment)
        headpond.kill()

    pulls = [lambda digest=digest: pull_until_killed(headpond, image, digest) for digest in image.amd64.layers]
    at_once([*pulls, kill])


def check_store(headpond: Headpond, image: Image) -> None:
    wait_until(lambda: not headpond.store.staged(), "staging is empty", timeout=10)
    headpond.store.check(image.blobs)


@pytest.mark.timeout(240)
def test_every_blob_is_right_after_kills_in_mid_fill(start_headpond, proxy, publish):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    headpond = start_headpond(rules_for(proxy.edge))
    pulled, interrupted = [], 0
    for _ in range(ROUNDS):
        image = publish(layer_bytes=LAYER_BYTES)
        proxy.bytes_per_second = BYTES_PER_SECOND
        assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").status == 200
        kill_at_a_random_moment(headpond, image, chance)
        interrupted += bool(headpond.store.staged())
        headpond.start()
        check_store(headpond, image)
        proxy.bytes_per_second = None
        for digest in image.amd64.layers:
            assert headpond.get(blob_path(image, digest)).digest == digest
        pulled.append(image)
    headpond.quiet()
    headpond.store.check()
    for image in pulled:
        assert all(headpond.get(blob_path(image, digest)).digest == digest for digest in image.blobs)
    assert interrupted >= ROUNDS // 4, "too few kills fell into a fill to mean anything"
