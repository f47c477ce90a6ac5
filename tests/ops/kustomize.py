"""Builds an overlay as `kubectl kustomize` does, for the few fields that ours use; any other field is an error.

So the manifests are tested where there is no kubectl. Where there is one, a test compares the two.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

_FIELDS = {"apiVersion", "kind", "namespace", "resources", "components", "images", "patches"}
_WITHOUT_NAMESPACE = {"Namespace"}


def build(folder: Path) -> list[Document]:
    """Every object of the overlay in `folder`."""
    return _kustomization(folder.resolve(), [])


def _kustomization(folder: Path, below: list[Document]) -> list[Document]:
    """The objects of a kustomization; a component's are added to those that are there already."""
    told: Document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(told) - _FIELDS
    assert not unknown, f"{folder}: {unknown} is not understood here"
    documents = [*below, *_resources(folder, told.get("resources", []))]
    for component in told.get("components", []):
        documents = _kustomization((folder / component).resolve(), documents)
    for patch in told.get("patches", []):
        for document in (each for each in documents if _is_target(each, patch["target"])):
            _patch(document, yaml.safe_load(patch["patch"]))
    for image in told.get("images", []):
        _set_image([found for document in documents for found in containers(document)], image)
    if "namespace" in told:
        for document in documents:
            if document["kind"] not in _WITHOUT_NAMESPACE:
                document["metadata"]["namespace"] = told["namespace"]
    return documents


def _set_image(found: list[Document], image: dict[str, str]) -> None:
    for container in found:
        if container["image"].partition(":")[0] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"


def _resources(folder: Path, names: list[str]) -> Iterator[Document]:
    for name in names:
        path = (folder / name).resolve()
        if path.is_dir():
            yield from _kustomization(path, [])
        else:
            yield from (copy.deepcopy(document) for document in yaml.safe_load_all(path.read_text()) if document)


def _is_target(document: Document, target: dict[str, str]) -> bool:
    return document["kind"] == target["kind"] and document["metadata"]["name"] == target["name"]


def _patch(document: Document, operations: list[Document]) -> None:
    """JSON patches (RFC 6902): `add` and `replace`."""
    for operation in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        node: Any = document
        for part in way:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if operation["op"] == "replace":
            assert (int(last) < len(node)) if isinstance(node, list) else last in node, operation["path"]
        if isinstance(node, list) and last == "-":
            node.append(operation["value"])
        else:
            assert operation["op"] in {"add", "replace"}
            node[int(last) if isinstance(node, list) else last] = operation["value"]


def pod(document: Document) -> Document | None:
    """The pod's specification of an object that runs pods."""
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: Document | None = spec.get("template", {}).get("spec") if document["kind"] != "PodMonitor" else None
    return found


def containers(document: Document) -> list[Document]:
    found = pod(document) or {}
    return [*found.get("initContainers", []), *found.get("containers", [])]
