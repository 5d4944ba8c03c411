"""Where a client finds a registry, and plain HTTP requests to it."""

import base64
import dataclasses
import hashlib
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Edge:
    """One address of a registry with what a client must know of it: CA, user and password."""

    port: int
    host: str = "127.0.0.1"
    connect_to: str = "127.0.0.1"
    ca: Path | None = None
    username: str | None = None
    password: str | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.ca else 'http'}://{self.address}"

    @property
    def login(self) -> str | None:
        return f"{self.username}:{self.password}" if self.username else None

    def logged_in(self, username: str | None, password: str | None = None) -> "Edge":
        """The same address with another login, or with none."""
        return dataclasses.replace(self, username=username, password=password)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    length: int
    sha256: str

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256}"


def connect(edge: Edge, timeout: float = 60.0) -> http.client.HTTPConnection:
    if edge.ca is None:
        return http.client.HTTPConnection(edge.connect_to, edge.port, timeout=timeout)
    context = ssl.create_default_context(cafile=str(edge.ca))
    return http.client.HTTPSConnection(edge.connect_to, edge.port, timeout=timeout, context=context)


def headers_for(edge: Edge, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    headers = dict(extra or {})
    if edge.login and "Authorization" not in headers:
        headers["Authorization"] = "Basic " + base64.b64encode(edge.login.encode()).decode()
    return headers


def check_complete(response: http.client.HTTPResponse, method: str) -> None:
    """`readinto` ends quietly where a body breaks off before its Content-Length."""
    if method != "HEAD" and response.length:
        raise http.client.IncompleteRead(b"", response.length)


def request(
    edge: Edge,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    keep_body: bool = True,
    timeout: float = 60.0,
) -> Answer:
    """One request. With `keep_body=False` the body is hashed and dropped, so that large blobs cost no memory."""
    connection = connect(edge, timeout)
    try:
        connection.request(method, path, body=body, headers=headers_for(edge, headers))
        response = connection.getresponse()
        hasher, length, kept = hashlib.sha256(), 0, bytearray()
        buffer = memoryview(bytearray(PIECE_BYTES))
        while count := response.readinto(buffer):
            hasher.update(buffer[:count])
            length += count
            if keep_body:
                kept += buffer[:count]
        check_complete(response, method)
        return Answer(response.status, response.headers, bytes(kept), length, hasher.hexdigest())
    finally:
        connection.close()
