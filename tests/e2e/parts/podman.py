"""podman and buildah: one store of images, two commands; by prefix, and as a mirror in registries.conf."""

import base64
import json
import re
from pathlib import Path

from parts.edge import Edge
from parts.images import Image
from parts.process import run
from parts.skopeo import client_options
from parts.way import ALL_RUNNABLE, MIRRORED_HOST, PREFIX, Pulled, mirrored, prefixed

CONTAINERS_CONF = """[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
STORAGE_CONF = """[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""
MIRROR_CONF = """[[registry]]
prefix = "{host}"
location = "127.0.0.1:1"
[[registry.mirror]]
location = "{mirror}"
insecure = {insecure}
"""


class ContainersStore:
    """A store of its own and the configuration files that lead to it."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.registries = self._write("registries.conf", "")
        self.policy = self._write("policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
        self.env = {
            "CONTAINERS_CONF": str(self._write("containers.conf", CONTAINERS_CONF)),
            "CONTAINERS_STORAGE_CONF": str(self._write("storage.conf", STORAGE_CONF.format(folder=folder))),
            "CONTAINERS_REGISTRIES_CONF": str(self.registries),
            "REGISTRY_AUTH_FILE": str(self._write("auth.json", "{}")),
        }

    def _write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content)
        return path

    def mirror(self, edge: Edge) -> None:
        """`--creds` is for the registry that the image is called by; a mirror's login is taken from the auth file."""
        insecure = "true" if edge.ca is None else "false"
        mirror = f"{edge.address}/{PREFIX}"
        self.registries.write_text(MIRROR_CONF.format(host=MIRRORED_HOST, mirror=mirror, insecure=insecure))
        login = base64.b64encode(edge.login.encode()).decode() if edge.login else None
        self._write("auth.json", json.dumps({"auths": {edge.address: {"auth": login}} if login else {}}))

    def stop(self) -> None:
        """The overlay driver leaves its folder mounted upon itself."""
        overlay = self.folder / "graph" / "overlay"
        if overlay.is_mount():
            run(["umount", "--lazy", str(overlay)])

    def held(self, reference: str) -> Pulled:
        """Root as the store keeps it for this name; the ID of an image is the digest of its config."""
        found = json.loads(run(["podman", "image", "inspect", reference], self.env))[0]
        repository = re.sub(r":[^:/]*$", "", reference.partition("@")[0])
        assert f"{repository}@{found['Digest']}" in found["RepoDigests"]
        return Pulled(found["Digest"], f"sha256:{found['Id']}")


class PodmanPrefix:
    name = "podman_prefix"
    kinds = ALL_RUNNABLE

    def __init__(self, store: ContainersStore, prefix: str = PREFIX):
        self.store = store
        self.prefix = prefix

    def reference(self, edge: Edge, image: Image, by: str) -> str:
        return prefixed(edge, image, by, self.prefix)

    def command(self, edge: Edge) -> list[str]:
        options = client_options(edge)
        return ["podman", "pull", "--quiet", f"--signature-policy={self.store.policy}", *options]

    def pull(self, edge: Edge, image: Image, by: str) -> Pulled:
        reference = self.reference(edge, image, by)
        run([*self.command(edge), reference], self.store.env)
        try:
            return self.store.held(reference)
        finally:
            run(["podman", "rmi", "--force", reference], self.store.env)


class PodmanMirror(PodmanPrefix):
    name = "podman_registries_conf_mirror"

    def reference(self, edge: Edge, image: Image, by: str) -> str:
        self.store.mirror(edge)
        return mirrored(image, by)

    def command(self, edge: Edge) -> list[str]:
        return super().command(edge.logged_in(None))


class Buildah(PodmanPrefix):
    name = "buildah"

    def command(self, edge: Edge) -> list[str]:
        return ["buildah", "pull", "--quiet", f"--signature-policy={self.store.policy}", *client_options(edge)]
