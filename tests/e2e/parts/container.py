"""Our image without an engine, and containers of it under runc: the image's settings, and what runs it says of them.

What differs from an engine: the network is this machine's, and there is no seccomp profile.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from parts.headpond import binary
from parts.process import Process, run

ROOT = Path(__file__).resolve().parents[3]


class ContainerImage:
    """Unpacked: what is run, and what it presets."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        layout, program = folder / "layout", folder / "headpond"
        # Symbols are most of a debug build, and mean nothing here.
        run(["strip", "-o", str(program), str(binary())])
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        recipe = ROOT / "deploy/container/oci-layout.sh"
        run([str(recipe), str(layout), "test", f"{architecture}={program}"], {"COMPRESSION_LEVEL": "1"})
        blob = lambda digest: layout / "blobs/sha256" / digest.removeprefix("sha256:")
        read = lambda path: json.loads(path.read_text())
        images = read(blob(read(layout / "index.json")["manifests"][0]["digest"]))
        manifest = read(blob(images["manifests"][0]["digest"]))
        self.config = read(blob(manifest["config"]["digest"]))["config"]
        self.root = folder / "root"
        self.root.mkdir()
        for layer in manifest["layers"]:
            run(["tar", "-xzpf", str(blob(layer["digest"])), "--numeric-owner", "-C", str(self.root)])

    @property
    def env(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.config["Env"])


@dataclass
class Container:
    """A command in the image, with no capabilities. `mounts` is by path in the container, read-only where not `writable`."""

    image: ContainerImage
    folder: Path
    name: str
    env: dict[str, str]
    arguments: list[str]
    user: tuple[int, int]
    groups: list[int] = field(default_factory=list)
    mounts: dict[str, Path] = field(default_factory=dict)
    writable: set[str] = field(default_factory=set)
    read_only: bool = True
    no_new_privileges: bool = True

    def start(self) -> Process:
        bundle = self.folder / "bundle"
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self._specification()))
        return Process(["runc", "run", "--bundle", str(bundle), self.name], self.folder / "container.log")

    def execute(self, *arguments: str) -> str:
        """Another command beside the one that runs, with its variables."""
        return run(["runc", "exec", self.name, *self.image.config["Entrypoint"], *arguments])

    def signal(self, name: str) -> None:
        run(["runc", "kill", self.name, name])

    def _specification(self) -> dict:
        uid, gid = self.user
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.image.root), "readonly": self.read_only},
            "process": {
                "user": {"uid": uid, "gid": gid, "additionalGids": self.groups},
                "cwd": self.image.config["WorkingDir"],
                "env": [f"{name}={value}" for name, value in self.env.items()],
                "args": self.image.config["Entrypoint"] + self.arguments,
                "noNewPrivileges": self.no_new_privileges,
                "capabilities": {},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                *(self._bind(path, source) for path, source in self.mounts.items()),
            ],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }

    def _bind(self, path: str, source: Path) -> dict:
        options = ["bind", "rw" if path in self.writable else "ro"]
        return {"destination": path, "type": "bind", "source": str(source), "options": options}
