"""Pods of a rendered manifest, run as a kubelet would: with the pod's arguments, variables, user, capabilities and
read-only root, and its volumes as directories at the paths it says.

What differs: each pod has an address of its own in 127.0.0.0/8 and is told to listen there, and no volume has a limit.
"""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from parts.container import Container, ContainerImage
from parts.edge import Edge, request
from parts.helm import Release
from parts.process import Process

START_SECONDS = 30


@dataclass(frozen=True)
class Cluster:
    """What the cluster has beside the pod: its Secrets, and names that resolve to pods."""

    secrets: dict[str, dict[str, str]]
    hosts: dict[str, list[str]]


class Pod:
    def __init__(self, image: ContainerImage, release: Release, cluster: Cluster, folder: Path, address: str):
        folder.mkdir(parents=True)
        self.release, self.cluster = release, cluster
        self.folder, self.address = folder, address
        self.spec = release.pod["spec"]
        (self.container,) = self.spec["containers"]
        self.ports = {one["name"]: one["containerPort"] for one in self.container["ports"]}
        self.edge = self._edge("registry")
        self.admin = self._edge("admin")
        self.store = folder / "volumes/store"
        self._make_volumes()
        self.running = self._make_container(image)
        self.process: Process | None = None

    def start(self) -> "Pod":
        self.process = self.running.start()
        self.process.wait_until(lambda: self.probe("readiness") == 200, "is ready", START_SECONDS)
        return self

    def probe(self, kind: str) -> int | None:
        asked = self.container[f"{kind}Probe"]["httpGet"]
        try:
            return request(self._edge(asked["port"]), asked["path"], timeout=5).status
        except OSError:
            return None

    def stop(self) -> int:
        """As a kubelet does: SIGTERM, and no more than the grace period."""
        assert self.process is not None
        self.running.signal("TERM")
        return self.process.wait(self.spec["terminationGracePeriodSeconds"])

    def kill(self) -> None:
        if self.process and self.process.child.poll() is None:
            self.running.signal("KILL")
            self.process.wait()

    def says(self, *arguments: str) -> tuple[int, str]:
        """Runs another command in such a pod, to its end; its status and what it printed."""
        self.running.arguments = list(arguments)
        done = self.running.start()
        return done.wait(), done.log.read_text()

    def _edge(self, port: str) -> Edge:
        return Edge(self.ports[port], self.address, self.address)

    def _make_container(self, image: ContainerImage) -> Container:
        outer, inner = self.spec["securityContext"], self.container["securityContext"]
        assert inner["capabilities"] == {"drop": ["ALL"]}
        mounts = {one["mountPath"]: self.folder / "volumes" / one["name"] for one in self.container["volumeMounts"]}
        writable = {one["mountPath"] for one in self.container["volumeMounts"] if not one.get("readOnly")}
        return Container(
            image,
            self.folder,
            name=f"headpond-pod-{os.getpid()}-{self.folder.name}",
            env=self._environment(image),
            arguments=self.container["args"],
            user=(outer["runAsUser"], outer["runAsGroup"]),
            groups=[outer["fsGroup"]],
            mounts=mounts | {"/etc/hosts": self._hosts()},
            writable=writable,
            read_only=inner["readOnlyRootFilesystem"],
            no_new_privileges=not inner["allowPrivilegeEscalation"],
        )

    def _environment(self, image: ContainerImage) -> dict[str, str]:
        """The image's variables under the pod's; of these only where to listen is another than in a cluster."""
        found = image.env | {one["name"]: one["value"] for one in self.container["env"]}
        # Empty, so that the file counts: what is told here has the file's ports.
        assert found["HEADPOND_LISTEN"] == found["HEADPOND_ADMIN"] == found["HEADPOND_STORAGE"] == ""
        return found | {"HEADPOND_LISTEN": self.edge.address, "HEADPOND_ADMIN": self.admin.address}

    def _make_volumes(self) -> None:
        """Directories, as a kubelet owns them: root's, and the group's where there is a fsGroup."""
        claims = self.release.workload["spec"].get("volumeClaimTemplates", [])
        for volume in self.spec["volumes"] + [claim["metadata"] for claim in claims]:
            folder = self.folder / "volumes" / volume["name"]
            folder.mkdir(parents=True)
            files, mode = self._files(volume)
            for name, content in files.items():
                (folder / name).write_text(content)
                (folder / name).chmod(mode)
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, 0, self.spec["securityContext"]["fsGroup"])
            folder.chmod(stat.S_ISGID | 0o775)

    def _files(self, volume: dict) -> tuple[dict[str, str], int]:
        """What lies in a volume before the pod starts, with its mode."""
        if "secret" in volume:
            return self.cluster.secrets[volume["secret"]["secretName"]], volume["secret"]["defaultMode"]
        if "configMap" in volume:
            return self.release.find("ConfigMap", volume["configMap"]["name"])["data"], 0o644
        return {}, 0

    def _hosts(self) -> Path:
        lines = [f"{address} {name}\n" for name, addresses in self.cluster.hosts.items() for address in addresses]
        path = self.folder / "hosts"
        path.write_text("127.0.0.1 localhost\n" + "".join(lines))
        return path
