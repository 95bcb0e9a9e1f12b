"""Validation of Kubernetes manifests, closed: a field that the schema doesn't know is an error, as for `kubectl apply`."""

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

_CRDS = Path(__file__).parent / "crds"
_KUBERNETES = "1.37"


def errors(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest; one line each."""
    if manifest["apiVersion"] == "ray.io/v1":
        return [f"{error.json_path}: {error.message}" for error in _validator(manifest["kind"]).iter_errors(manifest)]
    try:
        kubernetes_validate.validate(manifest, _KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def pod_errors(template: dict[str, Any]) -> list[str]:
    """What is wrong with a pod template, taken as a pod."""
    metadata = {"name": "pod", **template.get("metadata", {})}
    return errors({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})


@cache
def _validator(kind: str) -> Draft202012Validator:
    with gzip.open(_CRDS / f"ray.io_{kind.lower()}s.yaml.gz") as file:
        definition = yaml.load(file, Loader=yaml.CSafeLoader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    _close(schema)
    return Draft202012Validator(schema)


def _close(schema: dict[str, Any]) -> None:
    """Refuse properties that an object doesn't list, everywhere below, as the API server does."""
    properties = schema.get("properties", {})
    if properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    below = [*properties.values(), schema.get("items"), schema.get("additionalProperties")]
    for part in below:
        if isinstance(part, dict):
            _close(part)
