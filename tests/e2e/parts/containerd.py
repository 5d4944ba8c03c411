"""containerd, which is what EKS nodes run: `ctr images pull` and, in cri.py, what the kubelet asks of it."""

import contextlib
import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from parts.edge import Edge
from parts.images import ARTIFACT_KINDS, Image
from parts.process import Process, run
from parts.way import ALL_RUNNABLE, PREFIX, Pulled, mirrored, prefixed

NAMESPACE = "e2e"
CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "none.test/pause:1"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{folder}/certs.d"
"""


class Containerd:
    """One daemon. The hosts.toml files the CRI plugin reads lie in `certs_d`, and are read anew at each pull."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.socket = folder / "containerd.sock"
        self.certs_d = folder / "certs.d"
        self.certs_d.mkdir(exist_ok=True)
        config = folder / "config.toml"
        config.write_text(CONFIG.format(folder=folder))
        self.process = Process(["containerd", "-c", str(config)], folder / "containerd.log")
        self.process.wait_until(self._answers, "answers", timeout=40)

    def _answers(self) -> bool:
        return self.socket.exists() and subprocess.run(
            ["ctr", "-a", str(self.socket), "plugins", "ls"], capture_output=True, check=False
        ).returncode == 0

    def ctr(self, *arguments: str) -> str:
        return run(["ctr", "-a", str(self.socket), "-n", NAMESPACE, *arguments])

    def stop(self) -> None:
        self.process.stop()
        shutil.rmtree(self.folder / "root", ignore_errors=True)


def write_hosts(certs_d: Path, host: str, edge: Edge, path: str = "", override_path: bool = False) -> None:
    """One hosts.toml. `server` is a dead address: nothing may go past Headpond unseen."""
    folder = certs_d / host
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        'server = "http://127.0.0.1:1"',
        f'[host."{edge.url}{path}"]',
        'capabilities = ["pull", "resolve"]',
    ]
    if override_path:
        lines.append("override_path = true")
    if edge.ca:
        lines.append(f'ca = "{edge.ca}"')
    (folder / "hosts.toml").write_text("\n".join(lines) + "\n")


class Ctr:
    """`ctr images pull` with a hosts folder; subclasses say what is in it and how the image is then called."""

    name = ""
    kinds = ALL_RUNNABLE
    command = ("images", "pull")

    def __init__(self, containerd: Containerd):
        self.containerd = containerd

    def point(self, certs_d: Path, edge: Edge) -> None:
        raise NotImplementedError

    def reference(self, edge: Edge, image: Image, by: str) -> str:
        return mirrored(image, by)

    def options(self, edge: Edge, certs_d: Path) -> list[str]:
        self.point(certs_d, edge)
        return ["--hosts-dir", str(certs_d), *(["--user", edge.login] if edge.login else [])]

    def pull(self, edge: Edge, image: Image, by: str) -> Pulled:
        with self.pulled(edge, image, by) as reference:
            return self._held(reference)

    def run(self, edge: Edge, image: Image, *command: str) -> str:
        """Pulls the image and runs a command in it, on the host's network; returns what it printed."""
        name = f"e2e-{secrets.token_hex(4)}"
        with self.pulled(edge, image, "tag") as reference:
            return self.containerd.ctr("run", "--rm", "--net-host", reference, name, *command)

    @contextlib.contextmanager
    def pulled(self, edge: Edge, image: Image, by: str):
        reference = self.reference(edge, image, by)
        certs_d = self.containerd.folder / "hosts" / f"{self.name}-{edge.port}"
        options = self.options(edge, certs_d)
        self.containerd.ctr(*self.command, "--platform", "linux/amd64", *options, reference)
        try:
            yield reference
        finally:
            self.containerd.ctr("images", "rm", "--sync", reference)

    def _held(self, reference: str) -> Pulled:
        row = next(row for row in self.containerd.ctr("images", "ls").splitlines() if row.startswith(reference + " "))
        root = re.search(r"sha256:[0-9a-f]{64}", row.split(maxsplit=2)[2])
        assert root, row
        return Pulled(root[0], self._config(root[0]))

    def _config(self, digest: str) -> str:
        """Of the manifest, or of the first one an index names: read from containerd's own store, which checks digests."""
        body = json.loads(self.containerd.ctr("content", "get", digest))
        return body["config"]["digest"] if "config" in body else self._config(body["manifests"][0]["digest"])


class CtrMirror(Ctr):
    """certs.d/docker.io/hosts.toml: requests carry `?ns=docker.io`."""

    name = "ctr_hosts_toml_ns"

    def point(self, certs_d: Path, edge: Edge) -> None:
        write_hosts(certs_d, "docker.io", edge)


class CtrDefault(Ctr):
    """certs.d/_default/hosts.toml: one entry for every registry, told apart only by `?ns=`."""

    name = "ctr_hosts_toml_default"
    host = "quay.test"

    def point(self, certs_d: Path, edge: Edge) -> None:
        write_hosts(certs_d, "_default", edge)

    def reference(self, edge: Edge, image: Image, by: str) -> str:
        return mirrored(image, by, self.host)


class CtrOverridePath(Ctr):
    """override_path: the prefix stands in the mirror's URL, with `?ns=docker.io` beside it."""

    name = "ctr_hosts_toml_override_path"

    def point(self, certs_d: Path, edge: Edge) -> None:
        write_hosts(certs_d, "docker.io", edge, f"/v2/{PREFIX}", override_path=True)


class CtrPrefix(Ctr):
    """The image is called by Headpond's own address."""

    name = "ctr_prefix"

    def __init__(self, containerd: Containerd, prefix: str = PREFIX):
        super().__init__(containerd)
        self.prefix = prefix

    def point(self, certs_d: Path, edge: Edge) -> None:
        write_hosts(certs_d, edge.address, edge)

    def reference(self, edge: Edge, image: Image, by: str) -> str:
        return prefixed(edge, image, by, self.prefix)


class CtrContent(CtrMirror):
    """`ctr content fetch`: takes what cannot be unpacked, such as artifacts, into the content store."""

    name = "ctr_content_fetch"
    kinds = ALL_RUNNABLE + ARTIFACT_KINDS
    command = ("content", "fetch")

    def pull(self, edge: Edge, image: Image, by: str) -> Pulled:
        with self.pulled(edge, image, by) as reference:
            pulled = self._held(reference)
            held = self.containerd.ctr("content", "ls", "--quiet").split()
            assert {pulled.config, *image.amd64.layers} <= set(held)
            return pulled
