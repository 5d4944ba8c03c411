"""What is served, byte by byte: manifests of every kind, their media types, and blobs."""

import socket
import ssl

import pytest

from parts.headpond import rules_for
from parts.images import BUILDERS, EVERY_MANIFEST
from parts.way import PREFIX

KINDS = (*BUILDERS, "umoci")


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_is_served_with_its_exact_bytes_and_type(start_headpond, proxy, publish, kind):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish(kind)
    for reference in (image.tag, image.digest, image.tag):
        path = f"/v2/{PREFIX}/{image.repository}/manifests/{reference}"
        got = headpond.get(path, headers={"Accept": EVERY_MANIFEST})
        head = headpond.get(path, "HEAD", headers={"Accept": EVERY_MANIFEST})
        assert (got.status, got.body) == (200, image.root.content)
        for answer in (got, head):
            assert answer.headers["Content-Type"] == image.root.media_type
            assert answer.headers["Docker-Content-Digest"] == image.digest
            assert answer.headers["Content-Length"] == str(len(image.root.content))


@pytest.mark.parametrize("kind", ["artifact", "helm_chart"])
def test_artifact_is_served_blob_by_blob_cold_and_warm(start_headpond, proxy, publish, kind):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish(kind)
    for _ in ("cold", "warm"):
        assert headpond.get(f"/v2/{image.repository}/manifests/{image.tag}").digest == image.digest
        for digest in image.blobs:
            assert headpond.get(f"/v2/{image.repository}/blobs/{digest}").digest == digest
    assert all(count == 1 for count in proxy.journal.by_path().values())


def test_skopeo_lists_the_tags_of_the_upstream(start_headpond, clients, proxy, publish, registry):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish()
    registry.push_manifest(image.repository, "second", image.root)

    assert clients.ways["skopeo"].list_tags(headpond.edge, image) == ["1", "second"]
    proxy.refuse()
    assert clients.ways["skopeo"].list_tags(headpond.edge, image) == ["1", "second"]


def test_tls_spoken_to_a_plain_port_is_ended_at_once(start_headpond, proxy):
    """skopeo and podman try TLS first where they need not verify: a port that waits for more costs them ten seconds."""
    headpond = start_headpond(rules_for(proxy.edge))
    with socket.create_connection(("127.0.0.1", headpond.edge.port), timeout=2) as connection:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")
