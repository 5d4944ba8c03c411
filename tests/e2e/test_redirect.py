"""`delivery: redirect`: large blobs come from the bucket's own address, under a URL that holds for this one blob."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from parts.edge import Answer, Edge, request
from parts.headpond import Headpond, rules_for
from parts.images import Image, digest_of
from parts.process import wait_until
from parts.proxy import Proxy, in_front_of
from parts.stores import Store
from parts.way import expected

pytestmark = pytest.mark.own_store
LAYER_BYTES = 3_000_000
NAMES = [
    "skopeo",
    "ctr_hosts_toml_ns",
    "ctr_prefix",
    "ctr_content_fetch",
    "cri",
    "podman_prefix",
    "podman_registries_conf_mirror",
    "buildah",
    "docker_prefix",
    "docker_registry_mirrors",
]


@dataclass(frozen=True)
class Front:
    headpond: Headpond
    upstream: Proxy
    public: Proxy

    def warm(self, image: Image) -> None:
        """Has all of it stored in the bucket, and the upstream out of the way of what follows."""
        path = f"/v2/{image.repository}"
        assert self.headpond.get(f"{path}/manifests/{image.tag}").digest == image.digest
        for manifest in image.manifests:
            assert self.headpond.get(f"{path}/manifests/{manifest.digest}").digest == manifest.digest
        for digest in image.blobs:
            assert self.headpond.get(f"{path}/blobs/{digest}").digest == digest
        wait_until(lambda: self.headpond.store.holds_all(image.blobs), "the bucket has every blob", timeout=30)

    def ask(self, image: Image, digest: str, method: str = "GET", headers: dict | None = None) -> Answer:
        return self.headpond.get(f"/v2/{image.repository}/blobs/{digest}", method, headers=headers)


@pytest.fixture(scope="module", params=["bucket", "tier"])
def front(request, ceph, registry, make_headpond, tmp_path_factory) -> Iterator[Front]:
    """The public endpoint is a proxy that counts, before the same bucket."""
    folder = tmp_path_factory.mktemp("redirect")
    bucket = ceph.gateway().bucket
    with in_front_of(registry.edge) as upstream, in_front_of(bucket.edge) as public:
        settings = {"delivery": "redirect", "s3": {"public_endpoint": public.edge.url}}
        size = "0" if request.param == "bucket" else "4GiB"
        store = Store(folder / "store", bucket, f"redirect-{request.param}", max_size=size, **settings)
        made = make_headpond(rules_for(upstream.edge), folder, store=store).start()
        yield Front(made, upstream, public)
        made.stop()
        store.clear()


def follow(answer: Answer, headers: dict | None = None) -> Answer:
    assert answer.status == 307, (answer.status, answer.body[:200])
    return fetch(answer.headers["Location"], headers)


def fetch(url: str, headers: dict | None = None) -> Answer:
    parts = urlsplit(url)
    edge = Edge(parts.port, host=parts.hostname, connect_to=parts.hostname)
    return request(edge, f"{parts.path}?{parts.query}", headers=headers)


@pytest.mark.parametrize("name", NAMES)
def test_client_pulls_large_blobs_from_the_bucket_and_small_ones_directly(front: Front, clients, publish, name):
    image = publish("index", layer_bytes=LAYER_BYTES)
    way = clients.ways[name]
    front.warm(image)
    blobs_upstream = front.upstream.journal.count(part=f"{image.repository}/blobs/")

    assert way.pull(front.headpond.edge, image, "tag") == expected(image)

    large = [digest for digest in image.amd64.layers if len(image.blobs[digest]) > 1 << 20]
    assert large
    for digest in large:
        key = front.headpond.store.key(digest)
        served = front.public.journal.all("GET", key)
        assert {seen.status for seen in served} <= {200, 206}
        assert sum(seen.body_bytes for seen in served) >= len(image.blobs[digest])
    for digest in set(image.blobs) - {digest for digest in image.blobs if len(image.blobs[digest]) > 1 << 20}:
        assert front.public.journal.count(part=front.headpond.store.key(digest)) == 0
    assert front.upstream.journal.count(part=f"{image.repository}/blobs/") == blobs_upstream


def test_head_and_small_blobs_are_answered_directly(front: Front, publish):
    image = publish(layer_bytes=LAYER_BYTES)
    front.warm(image)
    large, small = image.largest_blob, image.amd64.config

    head = front.ask(image, large, "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(image.blobs[large])))
    assert head.headers["Docker-Content-Digest"] == large
    got = front.ask(image, small)
    assert (got.status, got.digest) == (200, small)


def test_cold_blob_is_streamed_and_not_redirected(front: Front, publish):
    image = publish(layer_bytes=LAYER_BYTES)
    answer = front.ask(image, image.largest_blob)

    assert (answer.status, answer.digest) == (200, image.largest_blob)


def test_redirect_leads_to_the_whole_blob_and_to_ranges_of_it(front: Front, publish):
    image = publish(layer_bytes=LAYER_BYTES)
    front.warm(image)
    digest, content = image.largest_blob, image.blobs[image.largest_blob]

    assert follow(front.ask(image, digest)).digest == digest
    ranged = {"Range": "bytes=1000-1999"}
    part = follow(front.ask(image, digest, headers=ranged), ranged)
    assert (part.status, part.body) == (206, content[1000:2000])
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(content)}"
    rest = {"Range": f"bytes={len(content) - 500}-"}
    assert follow(front.ask(image, digest, headers=rest), rest).body == content[-500:]


def test_redirect_names_the_public_endpoint_and_no_secret(front: Front, publish):
    image = publish(layer_bytes=LAYER_BYTES)
    front.warm(image)

    answer = front.ask(image, image.largest_blob)

    assert answer.headers["Location"].startswith(f"{front.public.edge.url}/")
    query = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    assert 0 < int(query["X-Amz-Expires"]) <= 15 * 60
    assert front.headpond.store.env["E2E_SECRET_KEY"] not in answer.headers["Location"]
    assert not front.headpond.log_lines("X-Amz-Signature")


@pytest.mark.parametrize("changed", ["signature", "expiry", "blob", "method"])
def test_tampered_url_is_refused_by_the_store(front: Front, publish, changed):
    image, other = publish(layer_bytes=LAYER_BYTES), publish(layer_bytes=LAYER_BYTES)
    front.warm(image)
    front.warm(other)
    url = front.ask(image, image.largest_blob).headers["Location"]
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    edge = Edge(parts.port, host=parts.hostname, connect_to=parts.hostname)
    assert request(edge, f"{parts.path}?{urlencode(query)}").digest == image.largest_blob, "as it was, it is taken"
    if changed == "signature":
        last = query["X-Amz-Signature"][-1]
        query["X-Amz-Signature"] = query["X-Amz-Signature"][:-1] + ("0" if last != "0" else "1")
    elif changed == "expiry":
        query["X-Amz-Expires"] = str(int(query["X-Amz-Expires"]) + 1)
    path = parts.path
    if changed == "blob":
        path = f"/{front.headpond.store.bucket.name}/{front.headpond.store.key(other.largest_blob)}"

    answer = request(edge, f"{path}?{urlencode(query)}", "DELETE" if changed == "method" else "GET")

    assert answer.status == 403
    assert digest_of(answer.body) not in (image.largest_blob, other.largest_blob)
    assert front.headpond.store.holds_all([image.largest_blob, other.largest_blob])


def test_redirected_bytes_are_counted_by_length(front: Front, publish):
    image = publish(layer_bytes=LAYER_BYTES)
    front.warm(image)
    name = "registry_proxy_pushed_bytes_total"
    before = front.headpond.total(name, type="blob")

    front.ask(image, image.largest_blob)

    assert front.headpond.total(name, type="blob") - before == len(image.blobs[image.largest_blob])
