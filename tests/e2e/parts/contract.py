"""The test target `bucket_contract`: tests in Rust that need a real S3 server."""

import os
from pathlib import Path

from parts.process import run
from parts.s3 import ACCESS_KEY, REGION, SECRET_KEY, Bucket


def contract_binary() -> str:
    path = Path(os.environ["HEADPOND_CONTRACT_BINARY"]).resolve()
    assert path.is_file(), f"HEADPOND_CONTRACT_BINARY names no file: {path}"
    return str(path)


def run_contract(bucket: Bucket, *arguments: str, timeout: float, **variables: str) -> str:
    """What it says; arguments are those of Rust's tests."""
    env = {
        "HEADPOND_TEST_S3_ENDPOINT": bucket.edge.url,
        "HEADPOND_TEST_S3_BUCKET": bucket.name,
        "HEADPOND_TEST_S3_REGION": REGION,
        "HEADPOND_TEST_S3_ACCESS_KEY": ACCESS_KEY,
        "HEADPOND_TEST_S3_SECRET_KEY": SECRET_KEY,
        "HEADPOND_TEST_S3_E_TAGS": "bare",
        **variables,
    }
    said = run([contract_binary(), *arguments], env, timeout=timeout)
    assert "test result: ok." in said
    assert " 0 passed" not in said
    return said
