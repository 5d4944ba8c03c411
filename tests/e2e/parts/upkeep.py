"""The commands that keep a store sound, through the server that holds it."""

import json
import subprocess

from parts.headpond import Headpond, binary
from parts.process import clean_environment


def command(headpond: Headpond, *arguments: str) -> tuple[int, dict]:
    """Exit code, and the object that `--json` prints."""
    argv = [str(binary()), *arguments, "--json", "--config", str(headpond.folder / "headpond.yaml")]
    env = clean_environment(headpond.env)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False, cwd=headpond.folder)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def scrub(headpond: Headpond) -> tuple[int, dict]:
    options = ["--bucket"] if headpond.store.bucket else []
    return command(headpond, "scrub", "--rate", "0", *options)
