"""Helm's own engine on our chart: lint, and an install up to where a cluster would be asked.

In a process of its own for each question: the engine is a Go library, which would set its signal handlers in ours.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from parts.process import CommandFailed, run

CHART = Path(__file__).resolve().parents[3] / "helm/headpond"
NAMESPACE = "registries"


class Refused(AssertionError):
    """Helm does not install this; holds what it says."""


@dataclass(frozen=True)
class Release:
    """What an install would send to the cluster, and tell the person who typed it."""

    manifests: list[dict]
    notes: str

    def find(self, kind: str, name: str | None = None) -> dict:
        found = [one for one in self.manifests if one["kind"] == kind and name in (None, one["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
        return found[0]

    @property
    def kinds(self) -> list[str]:
        return sorted(manifest["kind"] for manifest in self.manifests)

    @property
    def workload(self) -> dict:
        (found,) = [one for one in self.manifests if one["kind"] in ("Deployment", "StatefulSet")]
        return found

    @property
    def pod(self) -> dict:
        return self.workload["spec"]["template"]

    @property
    def config(self) -> dict:
        return yaml.safe_load(self.find("ConfigMap")["data"]["headpond.yaml"])


def install(values: dict, name: str = "headpond") -> Release:
    answer = _ask(action="install", values=values, name=name)
    manifests = [one for one in yaml.safe_load_all(answer["manifest"]) if one]
    return Release(manifests, answer["notes"])


def findings(values: dict) -> list[str]:
    """What a strict lint says, but for the icon that we do not have."""
    messages = _ask(action="lint", values=values)["messages"]
    return [f"{one['path']}: {one['error']}" for one in messages if "icon is recommended" not in one["error"]]


def _ask(**question) -> dict:
    folder = Path(__file__).parents[1]
    env = {"PYTHONPATH": str(folder), "KUBECONFIG": os.devnull}
    try:
        answer = json.loads(run([sys.executable, "-m", "parts.helm"], env, text_in=json.dumps(question)))
    except CommandFailed as failure:
        raise AssertionError(f"the engine itself failed: {failure}") from failure
    if "refused" in answer:
        raise Refused(answer["refused"])
    return answer


def _answer(question: dict) -> dict:
    import helm_python

    if question["action"] == "lint":
        return helm_python.lint(CHART, question["values"], strict=True, namespace=NAMESPACE)
    try:
        with helm_python.Config(namespace=NAMESPACE, storage_driver="memory") as config:
            return config.install(CHART, question["name"], question["values"], dry_run="client")
    except helm_python.HelmError as error:
        return {"refused": str(error)}


if __name__ == "__main__":
    json.dump(_answer(json.load(sys.stdin)), sys.stdout)
