"""CRI PullImage over gRPC, as the kubelet calls it on containerd."""

import grpc

from parts import protobuf
from parts.containerd import Containerd, write_hosts
from parts.edge import Edge
from parts.images import Image
from parts.process import CommandFailed
from parts.way import ALL_RUNNABLE, Pulled, mirrored

SERVICE = "/runtime.v1.ImageService/"


class Cri:
    name = "cri"
    kinds = ALL_RUNNABLE

    def __init__(self, containerd: Containerd):
        self.containerd = containerd
        self.channel = grpc.insecure_channel(f"unix://{containerd.socket}")

    def pull(self, edge: Edge, image: Image, by: str) -> Pulled:
        write_hosts(self.containerd.certs_d, "docker.io", edge)
        reference = mirrored(image, by)
        spec = protobuf.message({1: reference})
        request = {1: spec}
        if edge.username and edge.password:
            request[2] = protobuf.message({1: edge.username, 2: edge.password})
        config = protobuf.first(self._call("PullImage", request), 1).decode()
        try:
            return Pulled(self._root(spec, image), config)
        finally:
            self._call("RemoveImage", {1: spec})

    def _root(self, spec: bytes, image: Image) -> str:
        status = protobuf.first(self._call("ImageStatus", {1: spec}), 1)
        digests = [text.rpartition("@")[2] for text in protobuf.texts(status, 3) if f"/{image.repository}@" in text]
        assert len(digests) == 1, digests
        return digests[0]

    def _call(self, method: str, fields: dict[int, bytes | str]) -> bytes:
        try:
            return self.channel.unary_unary(SERVICE + method)(protobuf.message(fields), timeout=60)
        except grpc.RpcError as error:
            raise CommandFailed(f"{method}: {error}") from error

    def stop(self) -> None:
        self.channel.close()
