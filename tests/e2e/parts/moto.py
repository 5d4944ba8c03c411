"""moto: Secrets Manager, STS and ECR's `GetAuthorizationToken`, as far as credentials go. It checks no signatures.

moto's tokens of ECR are all alike and ended in 2015. So `EcrTokens` stands in front: it passes everything on, numbers
the passwords of the tokens, and dates them by the clock that the Headpond under test has."""

import base64
import json
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from botocore.config import Config

from parts.faketime import FakeTime
from parts.process import Process, free_port, listens

ACCESS_KEY, SECRET_KEY = "AKIAE2E", "e2e-aws-secret-key"
REGION = "eu-west-1"
HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "host", "accept-encoding"}


class Moto:
    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.process = Process(command, folder / "moto.log")
        self.process.wait_until(lambda: listens(port), "listens", timeout=60)
        self.secrets = boto3.client(
            "secretsmanager",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(proxies={}),
        )

    def stop(self) -> None:
        self.process.stop()


def environment(url: str) -> dict[str, str]:
    """What points the AWS SDK to a server in place of AWS."""
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    return {"AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", **keys}


class EcrTokens:
    """`on_issue` is called with each password before the token is told."""

    def __init__(self, moto: Moto, clock: FakeTime, life_seconds: int = 12 * 60 * 60):
        self.clock = clock
        self.life_seconds = life_seconds
        self.issued: list[str] = []
        self.on_issue = lambda password: None
        self.lock = threading.Lock()
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_HEADERS}
                asked = urllib.request.Request(moto.url + self.path, body, headers, method="POST")
                direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with direct.open(asked, timeout=20) as answer:
                    told, kind = answer.read(), answer.headers.get("Content-Type", "")
                if self.headers.get("X-Amz-Target", "").endswith(".GetAuthorizationToken"):
                    told = tokens.number(told)
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def number(self, told: bytes) -> bytes:
        answer = json.loads(told)
        (data,) = answer["authorizationData"]
        name, password = base64.b64decode(data["authorizationToken"]).decode().split(":")
        with self.lock:
            password = f"{password}-{len(self.issued) + 1}"
            self.on_issue(password)
            self.issued.append(password)
        data["authorizationToken"] = base64.b64encode(f"{name}:{password}".encode()).decode()
        data["expiresAt"] = self.clock.now() + self.life_seconds
        return json.dumps(answer).encode()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
