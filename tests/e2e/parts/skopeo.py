"""skopeo: copies an image, whatever its kind, into a folder; every file's digest is its name, so all can be checked."""

import hashlib
import json
import tempfile
from pathlib import Path

from parts.edge import Edge
from parts.images import ARTIFACT_KINDS, Image
from parts.process import run
from parts.way import ALL_RUNNABLE, PREFIX, Pulled, prefixed


def client_options(edge: Edge, side: str = "") -> list[str]:
    """`--[src-]tls-verify`, CA and login of the tools that share containers/image."""
    options = [f"--{side}tls-verify=false"] if edge.ca is None else [f"--{side}cert-dir={edge.ca.parent}"]
    if edge.login:
        options.append(f"--{side}creds={edge.login}")
    return options


class Skopeo:
    name = "skopeo"
    kinds = ALL_RUNNABLE + ARTIFACT_KINDS

    def __init__(self, folder: Path, prefix: str = PREFIX):
        self.folder = folder
        self.prefix = prefix

    def pull(self, edge: Edge, image: Image, by: str) -> Pulled:
        with tempfile.TemporaryDirectory(dir=self.folder) as target:
            self.copy_all(edge, prefixed(edge, image, by, self.prefix), Path(target))
            held = {path.name for path in Path(target).iterdir()}
            assert {digest.removeprefix("sha256:") for digest in image.blobs} <= held
            root = (Path(target) / "manifest.json").read_bytes()
            assert image.amd64.config is not None
            return Pulled("sha256:" + hashlib.sha256(root).hexdigest(), image.amd64.config)

    def copy_all(self, edge: Edge, reference: str, target: Path) -> None:
        """Copies every platform, and checks that each blob is what its name says."""
        options = client_options(edge, "src-")
        command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--all", *options]
        run([*command, f"docker://{reference}", f"dir:{target}"])
        for path in target.iterdir():
            if len(path.name) == 64:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name

    def list_tags(self, edge: Edge, image: Image) -> list[str]:
        reference = f"{edge.address}/{self.prefix}/{image.repository}".replace("//", "/")
        said = run(["skopeo", "list-tags", *client_options(edge), f"docker://{reference}"])
        return json.loads(said)["Tags"]
