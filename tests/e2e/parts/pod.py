"""Pods of a rendered manifest, run by runc as a kubelet would run them: from our image, with the pod's arguments,
variables, user, capabilities and read-only root, and its volumes as directories at the paths it says.

What differs: the network is this machine's, so each pod has an address of its own in 127.0.0.0/8 and is told to listen
there; there is no seccomp profile; a claim and an emptyDir have no limit.
"""

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from parts.edge import Edge, request
from parts.headpond import binary
from parts.helm import Release
from parts.process import Process, run

ROOT = Path(__file__).resolve().parents[3]
ANSWER_SECONDS = 30


class ContainerImage:
    """Our image without an engine, unpacked: what is run, and what it presets."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        layout, program = folder / "layout", folder / "headpond"
        # Symbols are most of a debug build, and mean nothing here.
        run(["strip", "-o", str(program), str(binary())])
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        recipe = ROOT / "deploy/container/oci-layout.sh"
        run([str(recipe), str(layout), "test", f"{architecture}={program}"])
        read = lambda digest: json.loads(self._blob(layout, digest).read_text())
        index = json.loads((layout / "index.json").read_text())
        manifest = read(read(index["manifests"][0]["digest"])["manifests"][0]["digest"])
        self.config = read(manifest["config"]["digest"])["config"]
        self.root = folder / "root"
        self.root.mkdir()
        for layer in manifest["layers"]:
            blob = self._blob(layout, layer["digest"])
            run(["tar", "-xzpf", str(blob), "--numeric-owner", "-C", str(self.root)])

    @staticmethod
    def _blob(layout: Path, digest: str) -> Path:
        return layout / "blobs/sha256" / digest.removeprefix("sha256:")


@dataclass(frozen=True)
class Cluster:
    """What the cluster has beside the pod: its Secrets, and names that resolve to pods."""

    secrets: dict[str, dict[str, str]]
    hosts: dict[str, list[str]]


class Pod:
    def __init__(self, image: ContainerImage, release: Release, cluster: Cluster, folder: Path, address: str):
        folder.mkdir(parents=True)
        self.image, self.release, self.cluster = image, release, cluster
        self.folder, self.address = folder, address
        self.spec = release.pod["spec"]
        (self.container,) = self.spec["containers"]
        self.ports = {one["name"]: one["containerPort"] for one in self.container["ports"]}
        self.edge = Edge(self.ports["registry"], address, address)
        self.admin = Edge(self.ports["admin"], address, address)
        self.name = f"headpond-pod-{os.getpid()}-{folder.name}"
        self.log = folder / "pod.log"
        self.process: Process | None = None
        self.store = self._make_volumes()

    def start(self) -> "Pod":
        self.process = self._run(self.container["args"])
        self.process.wait_until(lambda: self.probe("readiness") == 200, "is ready", ANSWER_SECONDS)
        return self

    def probe(self, kind: str) -> int | None:
        asked = self.container[f"{kind}Probe"]["httpGet"]
        edge = Edge(self.ports[asked["port"]], self.address, self.address)
        try:
            return request(edge, asked["path"], timeout=5).status
        except OSError:
            return None

    def stop(self) -> int:
        """As a kubelet does: SIGTERM, and no more than the grace period."""
        if not self.process:
            return 0
        if self.process.child.poll() is None:
            run(["runc", "kill", self.name, "TERM"])
        return self.process.wait(self.spec["terminationGracePeriodSeconds"])

    def kill(self) -> None:
        if self.process and self.process.child.poll() is None:
            run(["runc", "kill", self.name, "KILL"])
            self.process.wait()

    def says(self, *arguments: str) -> tuple[int, str]:
        """Runs another command in such a pod, to its end; its status and what it printed."""
        done = self._run(list(arguments))
        return done.wait(), self.log.read_text()

    def _run(self, arguments: list[str]) -> Process:
        bundle = self.folder / "bundle"
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self._runtime_spec(arguments)))
        return Process(["runc", "run", "--bundle", str(bundle), self.name], self.log)

    def _runtime_spec(self, arguments: list[str]) -> dict:
        outer, inner = self.spec["securityContext"], self.container["securityContext"]
        added = inner["capabilities"].get("add", [])
        assert inner["capabilities"]["drop"] == ["ALL"]
        user = {"uid": outer["runAsUser"], "gid": outer["runAsGroup"], "additionalGids": [outer["fsGroup"]]}
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.image.root), "readonly": inner["readOnlyRootFilesystem"]},
            "process": {
                "user": user,
                "cwd": self.image.config["WorkingDir"],
                "env": [f"{name}={value}" for name, value in self._environment().items()],
                "args": self.image.config["Entrypoint"] + arguments,
                "noNewPrivileges": not inner["allowPrivilegeEscalation"],
                "capabilities": {kind: added for kind in ("bounding", "effective", "permitted")},
            },
            "mounts": self._mounts(),
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }

    def _environment(self) -> dict[str, str]:
        """The image's variables under the pod's; of these only where to listen is another than in a cluster."""
        found = dict(pair.split("=", 1) for pair in self.image.config["Env"])
        for one in self.container["env"]:
            found[one["name"]] = one["value"] if "value" in one else self._secret_value(one["valueFrom"])
        # Empty, so that the file counts: what is told here has to be the file's port.
        assert found["HEADPOND_LISTEN"] == found["HEADPOND_ADMIN"] == found["HEADPOND_STORAGE"] == ""
        return found | {"HEADPOND_LISTEN": self.edge.address, "HEADPOND_ADMIN": self.admin.address}

    def _secret_value(self, source: dict) -> str:
        reference = source["secretKeyRef"]
        return self.cluster.secrets[reference["name"]][reference["key"]]

    def _make_volumes(self) -> Path:
        """Directories for the volumes, as a kubelet owns them: root's, and the group's where there is a fsGroup."""
        volumes = self.folder / "volumes"
        for volume in self._volumes():
            folder = volumes / volume["name"]
            folder.mkdir(parents=True)
            if "secret" in volume:
                files = self.cluster.secrets[volume["secret"]["secretName"]]
                mode = volume["secret"]["defaultMode"]
            elif "configMap" in volume:
                files, mode = self.release.find("ConfigMap", volume["configMap"]["name"])["data"], 0o644
            else:
                files, mode = {}, 0
            for name, content in files.items():
                (folder / name).write_text(content)
                (folder / name).chmod(mode)
            group = self.spec["securityContext"]["fsGroup"]
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, 0, group)
            folder.chmod(stat.S_ISGID | 0o775)
        # The way there is open; what is below has owners of its own.
        for path in (self.folder, volumes):
            path.chmod(0o755)
        return volumes / "store"

    def _volumes(self) -> list[dict]:
        claims = self.release.workload["spec"].get("volumeClaimTemplates", [])
        return self.spec["volumes"] + [{"name": claim["metadata"]["name"]} for claim in claims]

    def _mounts(self) -> list[dict]:
        hosts = self.folder / "hosts"
        lines = [f"{address} {name}\n" for name, addresses in self.cluster.hosts.items() for address in addresses]
        hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            bind(hosts, "/etc/hosts", read_only=True),
        ]
        for mount in self.container["volumeMounts"]:
            source = self.folder / "volumes" / mount["name"]
            mounts.append(bind(source, mount["mountPath"], mount.get("readOnly", False)))
        return mounts


def bind(source: Path, destination: str, read_only: bool) -> dict:
    options = ["bind", "ro" if read_only else "rw"]
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}
