"""Every client with every manner of being pointed at Headpond, and the parts they share."""

from pathlib import Path

from parts.containerd import Containerd, CtrContent, CtrDefault, CtrMirror, CtrOverridePath, CtrPrefix
from parts.cri import Cri
from parts.dockerd import Dockerd, DockerMirror, DockerPrefix
from parts.edge import Edge
from parts.headpond import SecureHeadpond
from parts.podman import Buildah, ContainersStore, PodmanMirror, PodmanPrefix
from parts.skopeo import Skopeo
from parts.way import Way

BY_CONTAINERD = (CtrMirror, CtrDefault, CtrOverridePath, CtrPrefix, CtrContent, Cri)
BY_DOCKERD = (DockerPrefix, DockerMirror)
BY_CONTAINERS_STORE = (PodmanPrefix, PodmanMirror, Buildah)
WAYS = (Skopeo, *BY_CONTAINERD, *BY_CONTAINERS_STORE, *BY_DOCKERD)
NAMES = tuple(way.name for way in WAYS)


class Clients:
    """The daemons and stores, started once for the whole suite."""

    def __init__(self, folder: Path):
        (folder / "skopeo").mkdir()
        self.containerd = Containerd(folder / "containerd")
        self.dockerd = Dockerd(folder / "dockerd", self.containerd)
        self.store = ContainersStore(folder / "containers")
        made: list[Way] = [Skopeo(folder / "skopeo")]
        made += [way(self.containerd) for way in BY_CONTAINERD]
        made += [way(self.store) for way in BY_CONTAINERS_STORE]
        made += [way(self.dockerd) for way in BY_DOCKERD]
        self.ways = {way.name: way for way in made}

    def stop(self) -> None:
        self.dockerd.stop()
        self.ways[Cri.name].stop()
        self.containerd.stop()
        self.store.stop()


def secure_edge(headpond: SecureHeadpond, name: str) -> Edge:
    """dockerd checks certificates only of hosts that are not in 127.0.0.0/8: it is given the name."""
    return headpond.named_edge if name in {way.name for way in BY_DOCKERD} else headpond.edge
