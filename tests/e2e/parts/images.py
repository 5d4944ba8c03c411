"""Image kinds, made offline from fresh random layers: containerd skips any blob it has seen before."""

import gzip
import hashlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field

import zstandard

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
EVERY_MANIFEST = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Manifest:
    content: bytes
    media_type: str
    config: str | None = None
    layers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return digest_of(self.content)


@dataclass
class Image:
    """An image as it is upstream. `manifests` holds the root last, so that pushing in order is always valid."""

    kind: str
    repository: str
    tag: str
    manifests: list[Manifest]
    blobs: dict[str, bytes] = field(repr=False)

    @property
    def root(self) -> Manifest:
        return self.manifests[-1]

    @property
    def digest(self) -> str:
        return self.root.digest

    @property
    def amd64(self) -> Manifest:
        """The manifest an amd64 machine ends up with: the first one that was made."""
        return self.manifests[0]

    @property
    def largest_blob(self) -> str:
        return max(self.blobs, key=lambda digest: len(self.blobs[digest]))


def fresh_name(stem: str) -> str:
    return f"library/{stem}-{secrets.token_hex(5)}"


def random_layer(size_bytes: int) -> bytes:
    """A tar with one random file: incompressible, so a layer is about as large as asked for."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(f"data-{secrets.token_hex(4)}")
        entry.size = size_bytes
        archive.addfile(entry, io.BytesIO(os.urandom(size_bytes)))
    return buffer.getvalue()


def _descriptor(content: bytes, media_type: str, **extra) -> dict:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **extra}


def _json(value: dict) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def _zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


@dataclass(frozen=True)
class Dialect:
    """What differs between manifests of one shape: their media types and how layers are compressed."""

    manifest: str
    config: str
    layer: str
    compress: Callable[[bytes], bytes] = _gzip
    names_its_type: bool = True


OCI = Dialect(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER + "+gzip")
OCI_ZSTD = Dialect(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER + "+zstd", _zstd)
OCI_UNTYPED = Dialect(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER + "+gzip", _gzip, names_its_type=False)
SCHEMA_2 = Dialect(DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER)


def _image_manifest(blobs: dict[str, bytes], dialect: Dialect, layer_bytes: int, architecture: str = "amd64") -> Manifest:
    tars = [random_layer(4096), random_layer(layer_bytes)]
    layers = [dialect.compress(tar) for tar in tars]
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "layer"} for _ in tars],
        }
    )
    body = {
        "schemaVersion": 2,
        "mediaType": dialect.manifest,
        "config": _descriptor(config, dialect.config),
        "layers": [_descriptor(layer, dialect.layer) for layer in layers],
    }
    if not dialect.names_its_type:
        del body["mediaType"]
    blobs.update({digest_of(blob): blob for blob in (config, *layers)})
    return Manifest(_json(body), dialect.manifest, digest_of(config), tuple(map(digest_of, layers)))


def _index(parts: list[tuple[Manifest, str]], media_type: str) -> Manifest:
    entries = [
        _descriptor(part.content, part.media_type, platform={"architecture": architecture, "os": "linux"})
        for part, architecture in parts
    ]
    return Manifest(_json({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}), media_type)


def _multi_arch(blobs: dict[str, bytes], dialect: Dialect, index_type: str, layer_bytes: int) -> list[Manifest]:
    parts = [(_image_manifest(blobs, dialect, layer_bytes, name), name) for name in ("amd64", "arm64")]
    return [*(part for part, _ in parts), _index(parts, index_type)]


def _artifact(
    blobs: dict[str, bytes], config: bytes, config_type: str, layer: bytes, layer_type: str, **extra
) -> list[Manifest]:
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(config, config_type),
        "layers": [_descriptor(layer, layer_type)],
        **extra,
    }
    blobs.update({digest_of(blob): blob for blob in (config, layer)})
    return [Manifest(_json(body), OCI_MANIFEST, digest_of(config), (digest_of(layer),))]


def _typed_artifact(blobs: dict[str, bytes], layer_bytes: int) -> list[Manifest]:
    empty = "application/vnd.oci.empty.v1+json"
    content = os.urandom(layer_bytes)
    artifact_type = "application/vnd.example.sbom"
    return _artifact(blobs, b"{}", empty, content, "application/octet-stream", artifactType=artifact_type)


def _helm_chart(blobs: dict[str, bytes], layer_bytes: int) -> list[Manifest]:
    config = _json({"name": f"chart-{secrets.token_hex(4)}", "version": "1.0.0", "apiVersion": "v2"})
    return _artifact(blobs, config, HELM_CONFIG, _gzip(random_layer(layer_bytes)), HELM_LAYER)


BUILDERS: dict[str, Callable[[dict[str, bytes], int], list[Manifest]]] = {
    "single": lambda blobs, size: [_image_manifest(blobs, OCI, size)],
    "index": lambda blobs, size: _multi_arch(blobs, OCI, OCI_INDEX, size),
    "schema2": lambda blobs, size: [_image_manifest(blobs, SCHEMA_2, size)],
    "schema2_list": lambda blobs, size: _multi_arch(blobs, SCHEMA_2, DOCKER_LIST, size),
    "zstd": lambda blobs, size: [_image_manifest(blobs, OCI_ZSTD, size)],
    "untyped": lambda blobs, size: [_image_manifest(blobs, OCI_UNTYPED, size)],
    "artifact": _typed_artifact,
    "helm_chart": _helm_chart,
}
RUNNABLE_KINDS = ("single", "index", "schema2", "schema2_list", "zstd", "untyped")
ARTIFACT_KINDS = ("artifact", "helm_chart")


def build(kind: str, repository: str | None = None, tag: str = "1", layer_bytes: int = 300_000) -> Image:
    blobs: dict[str, bytes] = {}
    manifests = BUILDERS[kind](blobs, layer_bytes)
    return Image(kind, repository or fresh_name(kind.replace("_", "-")), tag, manifests, blobs)
