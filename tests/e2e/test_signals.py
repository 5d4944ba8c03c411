"""SIGTERM drains; SIGHUP reloads rules, users and certificates, and leaves what is running alone."""

import http.client
import signal
import socket
import ssl
import time

import pytest
from cryptography import x509

from parts.crowd import Follower
from parts.edge import Edge, request
from parts.headpond import rules_for
from parts.images import build
from parts.process import wait_until
from parts.way import expected

LAYER_BYTES = 8_000_000


def refuses(edge: Edge) -> bool:
    try:
        with socket.create_connection((edge.connect_to, edge.port), timeout=1):
            return False
    except OSError:
        return True


def served_serial(edge: Edge) -> int:
    context = ssl.create_default_context(cafile=str(edge.ca))
    with socket.create_connection((edge.connect_to, edge.port), timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as secured:
            return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True)).serial_number


def test_sigterm_lets_a_running_pull_end_and_exits_0(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish(layer_bytes=LAYER_BYTES)
    gate = proxy.hold_bodies(image.largest_blob, LAYER_BYTES // 2)
    follower = Follower(headpond.edge, f"/v2/{image.repository}/blobs/{image.largest_blob}")
    wait_until(lambda: follower.received > 0, "the pull is running")
    assert gate.reached.wait(20)

    headpond.process.signal(signal.SIGTERM)
    wait_until(lambda: headpond.ready() == 503, "/readyz is 503", timeout=5)
    wait_until(lambda: refuses(headpond.edge), "no connection is accepted", timeout=10)
    gate.open()

    assert follower.finish() == image.largest_blob
    assert headpond.process.wait(20) == 0


def test_sigterm_with_nothing_running_exits_0_soon(start_headpond, proxy):
    headpond = start_headpond(rules_for(proxy.edge))
    started = time.monotonic()
    headpond.process.signal(signal.SIGTERM)

    assert headpond.process.wait(10) == 0
    assert time.monotonic() - started < 8


def test_pull_that_outlasts_the_drain_deadline_does_not_hold_the_process(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge), limits={"drain_deadline": "1s"})
    image = publish(layer_bytes=LAYER_BYTES)
    gate = proxy.hold_bodies(image.largest_blob, LAYER_BYTES // 2)
    follower = Follower(headpond.edge, f"/v2/{image.repository}/blobs/{image.largest_blob}")
    assert gate.reached.wait(20)

    headpond.process.signal(signal.SIGTERM)

    assert headpond.process.wait(10) == 0
    gate.open()
    with pytest.raises((OSError, http.client.HTTPException, AssertionError)):
        assert follower.finish() == image.largest_blob


def test_sighup_loads_a_new_rule_and_forgets_a_deleted_one(start_headpond, clients, proxy, publish):
    headpond = start_headpond([{"prefix": "before", "upstream": proxy.edge.url}])
    image = publish()
    path = f"{image.repository}/manifests/{image.tag}"
    assert headpond.get(f"/v2/docker-hub/{path}").status == 404

    headpond.settings["rules"] = rules_for(proxy.edge)[:1]
    headpond.reload()

    wait_until(lambda: headpond.get(f"/v2/docker-hub/{path}").status == 200, "the new rule serves", timeout=10)
    assert clients.ways["skopeo"].pull(headpond.edge, image, "tag") == expected(image)
    assert headpond.get(f"/v2/before/{path}").status == 404


def test_sighup_with_a_faulty_configuration_keeps_the_running_one(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish()
    headpond.settings["rules"] = [{"prefix": "broken", "upstreem": "nowhere"}]
    headpond.reload()

    wait_until(lambda: headpond.log_lines("upstreem"), "the log names the faulty key", timeout=10)
    assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").digest == image.digest


def test_sighup_loads_new_users_and_forgets_old_ones(start_secure_headpond, proxy):
    headpond = start_secure_headpond(rules_for(proxy.edge))
    assert headpond.get("/v2/").status == 200
    late = headpond.edge.logged_in("late", "password of late")
    assert request(late, "/v2/").status == 401

    headpond.set_users({"late": "password of late"})
    headpond.reload()

    wait_until(lambda: request(late, "/v2/").status == 200, "the new user gets in", timeout=10)
    assert headpond.get("/v2/").status == 401


def test_sighup_loads_a_new_certificate_without_ending_a_pull(start_secure_headpond, proxy, publish):
    headpond = start_secure_headpond(rules_for(proxy.edge))
    image = publish(layer_bytes=LAYER_BYTES)
    old = headpond.certificate.serial
    assert served_serial(headpond.edge) == old
    gate = proxy.hold_bodies(image.largest_blob, LAYER_BYTES // 2)
    follower = Follower(headpond.edge, f"/v2/{image.repository}/blobs/{image.largest_blob}")
    assert gate.reached.wait(20)

    new = headpond.renew_certificate().serial
    headpond.reload()

    wait_until(lambda: served_serial(headpond.edge) == new, "the new certificate is served", timeout=10)
    gate.open()
    assert follower.finish() == image.largest_blob
    assert request(headpond.named_edge, "/v2/").status == 200


def test_restart_is_not_needed_after_the_upstream_moves(start_headpond, proxy, registry, publish):
    """The rule names another address of the upstream: what comes next is asked there."""
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish()
    assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").status == 200
    proxy.refuse()
    late = registry.push(build("single"))

    headpond.settings["rules"] = rules_for(registry.edge)
    headpond.reload()

    path = f"/v2/{late.repository}/manifests/{late.tag}"
    wait_until(lambda: headpond.get(path).digest == late.digest, "the new address serves", timeout=10)
