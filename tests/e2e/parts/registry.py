"""docker-registry (Distribution 2.8) as the upstream: plain, behind TLS and htpasswd, or behind token auth."""

import re
from pathlib import Path

import yaml

from parts.edge import Edge, request
from parts.images import Image, Manifest
from parts.process import Process, free_port, listens, run
from parts.tls import Authority

USERNAME, PASSWORD = "upstream-user", "upstream password"
REQUEST_LINE = re.compile(r'"(GET|HEAD) (/v2/\S*) HTTP/1\.[01]"')


class Registry:
    """A running registry. `edge` is where it is pushed to, and pulled from when nothing stands in front."""

    def __init__(self, folder: Path, http: dict | None = None, auth: dict | None = None, edge: Edge | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.edge = edge or Edge(free_port())
        config = {
            "version": "0.1",
            "log": {"accesslog": {"disabled": False}, "level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.edge.port}", **(http or {})},
        }
        if auth:
            config["auth"] = auth
        path = folder / "registry.yml"
        path.write_text(yaml.safe_dump(config))
        env = {"OTEL_TRACES_EXPORTER": "none"}
        self.process = Process(["docker-registry", "serve", str(path)], folder / "registry.log", env)
        self.process.wait_until(lambda: listens(self.edge.port), "listens")

    def push(self, image: Image, authorization: str | None = None) -> Image:
        headers = {"Authorization": authorization} if authorization else {}
        for digest, content in image.blobs.items():
            self._push_blob(image.repository, digest, content, headers)
        for manifest in image.manifests:
            reference = image.tag if manifest is image.root else manifest.digest
            self.push_manifest(image.repository, reference, manifest, headers)
        return image

    def push_manifest(self, repository: str, reference: str, manifest: Manifest, headers: dict | None = None) -> None:
        headers = {**(headers or {}), "Content-Type": manifest.media_type}
        path = f"/v2/{repository}/manifests/{reference}"
        answer = request(self.edge, path, "PUT", headers, manifest.content)
        assert answer.status == 201, (answer.status, answer.body)
        assert answer.headers["Docker-Content-Digest"] == manifest.digest

    def _push_blob(self, repository: str, digest: str, content: bytes, headers: dict) -> None:
        started = request(self.edge, f"/v2/{repository}/blobs/uploads/", "POST", headers)
        assert started.status == 202, (started.status, started.body)
        location = started.headers["Location"]
        path = location[location.index("/v2/") :]
        path = f"{path}{'&' if '?' in path else '?'}digest={digest}"
        headers = {**headers, "Content-Type": "application/octet-stream"}
        answer = request(self.edge, path, "PUT", headers, content)
        assert answer.status == 201, (answer.status, answer.body)

    def pulls_seen(self) -> list[tuple[str, str]]:
        """Method and path of every read in the access log: for upstreams which no proxy stands in front of."""
        return REQUEST_LINE.findall(self.process.log.read_text(errors="replace"))

    def stop(self) -> None:
        self.process.stop()


def plain(folder: Path) -> Registry:
    return Registry(folder)


def behind_tls_and_password(folder: Path, authority: Authority) -> Registry:
    folder.mkdir(parents=True, exist_ok=True)
    certificate = authority.issue("registry", folder)
    users = folder / "users"
    users.write_text(run(["htpasswd", "-Bbn", USERNAME, PASSWORD]))
    edge = Edge(free_port(), ca=authority.certificate, username=USERNAME, password=PASSWORD)
    tls = {"tls": {"certificate": str(certificate.certificate), "key": str(certificate.key)}}
    return Registry(folder, tls, {"htpasswd": {"realm": "upstream", "path": str(users)}}, edge)


class Guarded(Registry):
    """Plain HTTP, and one user, whose password may change while it runs."""

    def __init__(self, folder: Path, username: str, password: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.users = folder / "users"
        self.edge = Edge(free_port())
        self.set_user(username, password)
        super().__init__(folder, auth={"htpasswd": {"realm": "upstream", "path": str(self.users)}}, edge=self.edge)

    def set_user(self, username: str, password: str) -> None:
        """The registry reads the file again when its time has changed."""
        new = self.users.with_suffix(".new")
        new.write_text(run(["htpasswd", "-Bbn", username, password]))
        new.rename(self.users)
        self.edge = self.edge.logged_in(username, password)

    def refusals(self) -> int:
        return len(re.findall(r'HTTP/1\.[01]" 40[13] ', self.process.log.read_text(errors="replace")))


def behind_tokens(folder: Path, realm: str, service: str, issuer: str, certificate: Path) -> Registry:
    token = {"realm": realm, "service": service, "issuer": issuer, "rootcertbundle": str(certificate)}
    return Registry(folder, auth={"token": token})
