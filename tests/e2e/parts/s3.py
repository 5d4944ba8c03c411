"""A bucket as its operator sees it, past Headpond: what lies in it, and what is put, spoilt or taken away."""

import hashlib
from collections.abc import Iterator

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from parts.edge import Edge

ACCESS_KEY, SECRET_KEY = "E2EACCESSKEY", "e2e-secret-key"
REGION = "us-east-1"


class Bucket:
    """`edge` is the store that is spoken to; keys are told and given in full, with every prefix."""

    def __init__(self, edge: Edge, name: str, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY):
        self.edge = edge
        self.name = name
        settings = Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            proxies={},
            retries={"max_attempts": 1},
            max_pool_connections=32,
        )
        self.client = boto3.client(
            "s3",
            endpoint_url=edge.url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=REGION,
            config=settings,
        )

    def create(self) -> None:
        self.client.create_bucket(Bucket=self.name)

    def put(self, key: str, content: bytes, **conditions: str) -> str:
        """Returns the ETag; conditions are those of boto3, such as `IfNoneMatch="*"`."""
        return self.client.put_object(Bucket=self.name, Key=key, Body=content, **conditions)["ETag"]

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def digest(self, key: str) -> str:
        """Of what lies there, read in pieces."""
        hasher = hashlib.sha256()
        for piece in self.client.get_object(Bucket=self.name, Key=key)["Body"].iter_chunks(1 << 20):
            hasher.update(piece)
        return f"sha256:{hasher.hexdigest()}"

    def has(self, key: str) -> bool:
        try:
            self.client.head_object(Bucket=self.name, Key=key)
            return True
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise

    def keys(self, prefix: str = "") -> list[str]:
        return [found["Key"] for found in self._objects(prefix)]

    def stored_bytes(self, prefix: str = "") -> int:
        return sum(found["Size"] for found in self._objects(prefix))

    def _objects(self, prefix: str) -> Iterator[dict]:
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            yield from page.get("Contents", ())

    def uploads(self, prefix: str = "") -> list[str]:
        """Keys of uploads in parts that were neither completed nor given up."""
        found = self.client.list_multipart_uploads(Bucket=self.name, Prefix=prefix)
        return [upload["Key"] for upload in found.get("Uploads", ())]

    def delete(self, prefix: str) -> None:
        """Everything below a prefix, unfinished uploads included."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            if found := [{"Key": one["Key"]} for one in page.get("Contents", ())]:
                self.client.delete_objects(Bucket=self.name, Delete={"Objects": found, "Quiet": True})
        for upload in self.client.list_multipart_uploads(Bucket=self.name, Prefix=prefix).get("Uploads", ()):
            self.client.abort_multipart_upload(Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"])

    def presigned(self, key: str, expires_in_seconds: int = 60) -> str:
        asked = {"Bucket": self.name, "Key": key}
        return self.client.generate_presigned_url("get_object", asked, ExpiresIn=expires_in_seconds)
