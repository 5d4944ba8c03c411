"""A token server for docker-registry: RS256 JWTs, the certificate in x5c, for those who know the password."""

import base64
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from parts.process import free_port
from parts.registry import PASSWORD, USERNAME
from parts.tls import Certificate

SERVICE, ISSUER = "upstream.test", "token-server.test"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class TokenServer:
    def __init__(self, certificate: Certificate, lifetime_seconds: int = 60):
        self.key = serialization.load_pem_private_key(certificate.key.read_bytes(), password=None)
        public = x509.load_pem_x509_certificate(certificate.certificate.read_bytes())
        self.x5c = base64.b64encode(public.public_bytes(serialization.Encoding.DER)).decode()
        self.lifetime_seconds = lifetime_seconds
        self.issued: list[list[str]] = []
        self.refused = 0
        self.port = free_port()
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    def issue(self, scopes: list[str]) -> str:
        """A token for `repository:NAME:ACTION[,ACTION]` scopes, good for `lifetime_seconds`."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": USERNAME,
            "aud": SERVICE,
            "nbf": now - 5,
            "iat": now,
            "exp": now + self.lifetime_seconds,
            "jti": secrets.token_hex(8),
            "access": [_access(scope) for scope in scopes],
        }
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self.x5c]}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64url(signature)}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self
        expected = "Basic " + base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                query = parse_qs(urlsplit(self.path).query)
                if self.headers["Authorization"] != expected or query.get("service") != [SERVICE]:
                    owner.refused += 1
                    return self.answer(401, {"errors": [{"code": "UNAUTHORIZED"}]})
                scopes = [part for scope in query.get("scope", []) for part in scope.split()]
                owner.issued.append(scopes)
                return self.answer(200, {"token": owner.issue(scopes), "expires_in": owner.lifetime_seconds})

            def answer(self, status: int, body: dict):
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        return Handler

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _access(scope: str) -> dict:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}
