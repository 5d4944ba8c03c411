"""dockerd: by prefix, and through `registry-mirrors`, which the daemon reads anew on SIGHUP."""

import base64
import json
import shutil
import signal
from pathlib import Path

from parts import tls
from parts.containerd import Containerd
from parts.edge import Edge
from parts.images import Image
from parts.process import Process, run
from parts.way import ALL_RUNNABLE, PREFIX, Pulled, mirrored, prefixed

DOCKER = "/usr/bin/docker"
DOCKER_HUB_LOGIN = "https://index.docker.io/v1/"
# A mount namespace of its own, where /etc/hosts knows the test's host name, has Docker Hub at a dead address so that
# nothing goes past the mirror, and /etc/docker holds the test's CA.
START = 'mount --bind "$1" /etc/hosts && mkdir -p /etc/docker && mount --bind "$2" /etc/docker && shift 2 && exec "$@"'


class Dockerd:
    def __init__(self, folder: Path, containerd: Containerd):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.etc = folder / "etc"
        self.etc.mkdir()
        self.config = folder / "daemon.json"
        self.settings = {
            "data-root": str(folder / "data"),
            "exec-root": str(folder / "exec"),
            "pidfile": str(folder / "docker.pid"),
            "hosts": [f"unix://{self.socket}"],
            "storage-driver": "overlay2",
            "iptables": False,
            "ip6tables": False,
            "bridge": "none",
            "containerd": str(containerd.socket),
            "registry-mirrors": [],
        }
        self._write_settings()
        hosts = folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost registry-1.docker.io\n::1 {tls.HOST}\n")
        dockerd = ["dockerd", "--config-file", str(self.config)]
        argv = ["unshare", "-m", "sh", "-c", START, "sh", str(hosts), str(self.etc), *dockerd]
        self.process = Process(argv, folder / "dockerd.log")
        self.process.wait_until(self.socket.exists, "listens", timeout=60)
        self.process.wait_until(lambda: self.mirrors() == [], "answers")

    def _write_settings(self) -> None:
        self.config.write_text(json.dumps(self.settings))

    def docker(self, *arguments: str, login: dict[str, Edge] | None = None) -> str:
        home = self.folder / "client"
        home.mkdir(exist_ok=True)
        auths = {
            host: {"auth": base64.b64encode(edge.login.encode()).decode()}
            for host, edge in (login or {}).items()
            if edge.login
        }
        (home / "config.json").write_text(json.dumps({"auths": auths}))
        env = {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(home)}
        return run([DOCKER, *arguments], env)

    def mirrors(self) -> list[str]:
        return json.loads(self.docker("info", "--format", "{{json .RegistryConfig.Mirrors}}")) or []

    def mirror(self, edge: Edge) -> None:
        wanted = [f"{edge.url}/"]
        if self.mirrors() != wanted:
            self.settings["registry-mirrors"] = wanted
            self._write_settings()
            self.process.signal(signal.SIGHUP)
            self.process.wait_until(lambda: self.mirrors() == wanted, f"has mirror {wanted}")

    def trust(self, edge: Edge) -> None:
        if edge.ca:
            folder = self.etc / "certs.d" / edge.address
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(edge.ca, folder / "ca.crt")

    def stop(self) -> None:
        self.process.stop()
        shutil.rmtree(self.folder / "data", ignore_errors=True)


class DockerPrefix:
    """dockerd 20.10 unpacks no zstd, whoever serves it."""

    name = "docker_prefix"
    kinds = tuple(kind for kind in ALL_RUNNABLE if kind != "zstd")

    def __init__(self, dockerd: Dockerd, prefix: str = PREFIX):
        self.dockerd = dockerd
        self.prefix = prefix

    def reference(self, edge: Edge, image: Image, by: str) -> str:
        return prefixed(edge, image, by, self.prefix)

    def pull(self, edge: Edge, image: Image, by: str) -> Pulled:
        self.dockerd.trust(edge)
        reference = self.reference(edge, image, by)
        self.dockerd.docker("pull", "--quiet", reference, login={edge.address: edge, DOCKER_HUB_LOGIN: edge})
        try:
            found = json.loads(self.dockerd.docker("image", "inspect", reference))[0]
            roots = [text.rpartition("@")[2] for text in found["RepoDigests"]]
            assert len(roots) == 1, roots
            return Pulled(roots[0], found["Id"])
        finally:
            self.dockerd.docker("rmi", "--force", reference)


class DockerMirror(DockerPrefix):
    """Asks for `library/NAME` with no prefix and no `?ns=`."""

    name = "docker_registry_mirrors"

    def reference(self, edge: Edge, image: Image, by: str) -> str:
        self.dockerd.mirror(edge)
        return mirrored(image, by)
