"""An upstream that fails, with cached content past its freshness: every client pulls as if nothing were wrong."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from parts import ways
from parts.crowd import at_once
from parts.failures import FAILURES
from parts.headpond import Headpond, rules_for
from parts.images import Image, build
from parts.process import wait_until
from parts.proxy import Proxy, in_front_of
from parts.registry import Registry
from parts.way import expected

WINDOW_SECONDS = 1.0
JITTER = 0.1
SHORT = {"freshness": {"default": "1s"}}
PATIENT = {"limits": {"revalidate_wait": "30s"}}
EAGER = {"limits": {"revalidate_backoff": "1s", "circuit_cooldown": "1s"}}


def pass_the_window(since: float) -> None:
    """The passing of time is the event here: freshness is counted in wall-clock time."""
    over = since + WINDOW_SECONDS * (1 + JITTER) + 0.1
    wait_until(lambda: time.monotonic() > over, "the freshness window has passed")


def tag_path(image: Image) -> str:
    return f"/v2/{image.repository}/manifests/{image.tag}"


@dataclass(frozen=True)
class Aged:
    """One image for each way, cached by that way and past its freshness; the upstream fails by now."""

    headpond: Headpond
    proxy: Proxy
    images: dict[str, Image]


@pytest.fixture(scope="module", params=FAILURES)
def aged(request, make_headpond, registry, clients, publish) -> Iterator[Aged]:
    with in_front_of(registry.edge) as proxy:
        headpond = make_headpond(rules_for(proxy.edge, **SHORT)).start()
        images = {name: publish("index") for name in ways.NAMES}
        for name, image in images.items():
            assert clients.ways[name].pull(headpond.edge, image, "tag") == expected(image)
        pass_the_window(time.monotonic())
        FAILURES[request.param](proxy)
        yield Aged(headpond, proxy, images)
        headpond.stop()


@pytest.mark.parametrize("name", ways.NAMES)
@pytest.mark.parametrize("by", ["tag", "digest"])
def test_cached_image_is_pulled_while_the_upstream_fails(aged: Aged, clients, name, by):
    image = aged.images[name]

    assert clients.ways[name].pull(aged.headpond.edge, image, by) == expected(image)


def test_stale_manifest_carries_a_warning_and_is_counted(aged: Aged):
    image = aged.images["skopeo"]
    before = aged.headpond.total("headpond_cache_requests_total", result="stale")

    answer = aged.headpond.get(f"/v2/docker-hub/{image.repository}/manifests/{image.tag}")

    assert (answer.status, answer.digest) == (200, image.digest)
    assert "Warning" in answer.headers
    assert aged.headpond.total("headpond_cache_requests_total", result="stale") > before


@pytest.mark.parametrize("failure", FAILURES)
def test_moved_tag_is_served_once_the_upstream_is_back(start_headpond, registry: Registry, proxy, publish, failure):
    headpond = start_headpond(rules_for(proxy.edge, **SHORT), **EAGER)
    old = publish()
    assert headpond.get(tag_path(old)).digest == old.digest
    pass_the_window(time.monotonic())
    FAILURES[failure](proxy)
    new = registry.push(build("single", old.repository, old.tag))

    assert headpond.get(tag_path(old)).digest == old.digest
    proxy.recover()

    wait_until(lambda: headpond.get(tag_path(new)).digest == new.digest, "the moved tag is served", timeout=15)
    assert headpond.get(f"/v2/{old.repository}/manifests/{old.digest}").digest == old.digest


def test_moved_tag_is_pulled_by_a_client_after_the_window(start_headpond, registry: Registry, clients, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge, **SHORT), **PATIENT)
    skopeo, old = clients.ways["skopeo"], publish()
    assert skopeo.pull(headpond.edge, old, "tag") == expected(old)
    new = registry.push(build("single", old.repository, old.tag))
    pass_the_window(time.monotonic())

    assert skopeo.pull(headpond.edge, new, "tag") == expected(new)


def test_exactly_one_head_goes_upstream_per_tag_and_window(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge, **SHORT), **PATIENT)
    image = publish()
    path = tag_path(image)
    assert headpond.get(path).status == 200
    end = time.monotonic() + 5 * WINDOW_SECONDS

    def keep_asking():
        while time.monotonic() < end:
            assert headpond.get(path).digest == image.digest

    at_once([keep_asking] * 8)

    # A window of a second is a second of the wall clock: what was confirmed in one is believed to its end.
    asked = [int(seen.at) for seen in proxy.journal.all("HEAD", path)]
    assert len(asked) >= 3
    assert len(set(asked)) == len(asked), asked
    assert proxy.journal.count("GET", path) == 1


def test_failing_upstream_is_asked_once_and_then_left_alone(start_headpond, proxy, publish):
    """The circuit: clients that come after the first probe wait for nothing."""
    headpond = start_headpond(rules_for(proxy.edge, **SHORT))
    images = [publish() for _ in range(5)]
    for image in images:
        assert headpond.get(tag_path(image)).status == 200
    pass_the_window(time.monotonic())
    proxy.hang()
    before = proxy.journal.count("HEAD")
    assert headpond.get(tag_path(images[0])).digest == images[0].digest

    took = []
    for image in images[1:] * 5:
        started = time.monotonic()
        assert headpond.get(tag_path(image)).digest == image.digest
        took.append(time.monotonic() - started)
    print("seconds", took)
    assert proxy.journal.count("HEAD") - before == 1, "a hanging upstream is asked again and again"
    assert sorted(took)[-3] < 0.5, "stale pulls waited for a hanging upstream"
