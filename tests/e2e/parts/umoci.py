"""A runnable image built offline with umoci around busybox: its manifest carries no `mediaType`."""

import json
import os
import shutil
from pathlib import Path

from parts.images import OCI_MANIFEST, Image, Manifest, fresh_name
from parts.process import run


def build_busybox(folder: Path, tag: str = "1") -> Image:
    layout = folder / "layout"
    reference = f"{layout}:amd64"
    run(["umoci", "init", "--layout", str(layout)])
    run(["umoci", "new", "--image", reference])
    run(["umoci", "insert", "--image", reference, str(_root(folder)), "/"])
    platform = ["--os", "linux", "--architecture", "amd64"]
    run(["umoci", "config", "--image", reference, *platform, "--config.entrypoint", "/bin/sh"])
    return _read(layout, tag)


def _root(folder: Path) -> Path:
    root = folder / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    (root / "fresh").write_bytes(os.urandom(4096))
    return root


def _read(layout: Path, tag: str) -> Image:
    index = json.loads((layout / "index.json").read_text())
    content = _blob(layout, index["manifests"][0]["digest"])
    body = json.loads(content)
    layers = tuple(layer["digest"] for layer in body["layers"])
    config = body["config"]["digest"]
    blobs = {digest: _blob(layout, digest) for digest in (config, *layers)}
    return Image("umoci", fresh_name("umoci"), tag, [Manifest(content, OCI_MANIFEST, config, layers)], blobs)


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()
