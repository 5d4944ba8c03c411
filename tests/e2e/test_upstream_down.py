"""An upstream that is down or throttles, for what is not cached, and across restarts."""

import json

import pytest

from parts.failures import FAILURES
from parts.headpond import rules_for
from parts.process import wait_until
from parts.way import expected


def test_throttled_upstream_is_told_as_429_with_retry_after(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish()
    proxy.answer(429, {"Retry-After": "7"})

    answer = headpond.get(f"/v2/{image.repository}/manifests/{image.tag}")

    assert answer.status == 429
    assert answer.headers["Retry-After"] == "7"
    assert json.loads(answer.body)["errors"][0]["code"] == "TOOMANYREQUESTS"


@pytest.mark.parametrize("failure", ["stopped", "503"])
def test_uncached_tag_of_a_failing_upstream_is_a_gateway_error(start_headpond, proxy, publish, failure):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish()
    FAILURES[failure](proxy)

    answer = headpond.get(f"/v2/{image.repository}/manifests/{image.tag}")

    assert answer.status in (502, 503, 504)
    assert json.loads(answer.body)["errors"]


def test_headpond_starts_with_the_upstream_down_and_serves_when_it_is_back(start_headpond, clients, proxy, publish):
    image = publish()
    proxy.refuse()
    headpond = start_headpond(rules_for(proxy.edge), limits={"circuit_cooldown": "1s"})
    assert headpond.ready() == 200
    path = f"/v2/{image.repository}/manifests/{image.tag}"
    assert headpond.get(path).status != 200

    proxy.recover()

    wait_until(lambda: headpond.get(path).digest == image.digest, "the image is served", timeout=15)
    assert clients.ways["skopeo"].pull(headpond.edge, image, "tag") == expected(image)


@pytest.mark.parametrize("name", ["skopeo", "ctr_hosts_toml_ns", "cri", "docker_registry_mirrors"])
def test_restarted_headpond_serves_its_store_with_the_upstream_down(start_headpond, clients, proxy, publish, name):
    headpond = start_headpond(rules_for(proxy.edge))
    image, way = publish("index"), clients.ways[name]
    assert way.pull(headpond.edge, image, "tag") == expected(image)
    assert headpond.stop() == 0
    proxy.refuse()
    headpond.start()

    assert way.pull(headpond.edge, image, "tag") == expected(image)
    assert way.pull(headpond.edge, image, "digest") == expected(image)
