"""A replay: containerd 2.1 itself is not to be had here, so its requests are sent in their shape over plain HTTP.

Its fetcher asks for `bytes=0-` (on manifests too), then, for a large layer, opens one open-ended range per chunk, reads
the chunk and closes the connection on the rest; several chunks at a time.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from parts.edge import Edge, connect
from parts.headpond import rules_for
from parts.images import OCI_MANIFEST, Image

CHUNK_BYTES = 8 << 20
PARALLEL_FETCHES = 4
LAYER_BYTES = 40_000_000
# The upstream's line, per connection. Whatever lies in socket buffers when a connection is given up counts as sent:
# at the loopback's own speed that is megabytes.
BYTES_PER_SECOND = 5_000_000
ENCODINGS = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"


def headers(accept: str, offset: int | None = None) -> dict[str, str]:
    ranged = {} if offset is None else {"Range": f"bytes={offset}-"}
    return {"Accept": f"{accept}, */*", "Accept-Encoding": ENCODINGS, "User-Agent": "containerd/2.1.0", **ranged}


def path_of(image: Image, kind: str, reference: str) -> str:
    return f"/v2/{image.repository}/{kind}/{reference}?ns=docker.io"


def read_chunk(edge: Edge, path: str, offset: int, size_bytes: int) -> bytes:
    """One open-ended range, of which only the chunk is read."""
    connection = connect(edge)
    try:
        connection.request("GET", path, headers=headers("application/vnd.oci.image.layer.v1.tar+gzip", offset))
        response = connection.getresponse()
        assert response.status == 206, response.status
        assert response.headers["Content-Range"] == f"bytes {offset}-{size_bytes - 1}/{size_bytes}"
        assert response.headers["Content-Encoding"] is None
        return response.read(min(CHUNK_BYTES, size_bytes - offset))
    finally:
        connection.close()


def test_replay_of_manifest_requests_with_an_open_range(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish("index")

    head = headpond.get(path_of(image, "manifests", image.tag), "HEAD", headers=headers(OCI_MANIFEST))
    assert (head.status, head.headers["Docker-Content-Digest"]) == (200, image.digest)

    for manifest in (image.root, image.amd64):
        path = path_of(image, "manifests", manifest.digest)
        answer = headpond.get(path, headers=headers(manifest.media_type, 0))
        size_bytes = len(manifest.content)
        assert (answer.status, answer.body) == (206, manifest.content)
        assert answer.headers["Content-Range"] == f"bytes 0-{size_bytes - 1}/{size_bytes}"
        assert answer.headers["Content-Type"] == manifest.media_type


def test_replay_of_parallel_layer_ranges_costs_one_transfer(start_headpond, proxy, publish):
    headpond = start_headpond(rules_for(proxy.edge))
    image = publish(layer_bytes=LAYER_BYTES)
    assert headpond.get(path_of(image, "manifests", image.tag)).status == 200
    layer = image.largest_blob
    path, size_bytes = path_of(image, "blobs", layer), len(image.blobs[layer])
    proxy.bytes_per_second = BYTES_PER_SECOND

    with ThreadPoolExecutor(PARALLEL_FETCHES) as pool:
        chunks = pool.map(lambda at: read_chunk(headpond.edge, path, at, size_bytes), range(0, size_bytes, CHUNK_BYTES))
        fetched = hashlib.sha256(b"".join(chunks)).hexdigest()

    assert f"sha256:{fetched}" == layer
    headpond.quiet()
    assert proxy.journal.body_bytes(layer) <= 1.05 * size_bytes
    asked = proxy.journal.count("GET", layer)
    assert headpond.get(path, keep_body=False).digest == layer
    assert proxy.journal.count("GET", layer) == asked
