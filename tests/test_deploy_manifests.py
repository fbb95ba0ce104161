"""The manifests for scheduled distillation: fields that KubeRay and Kubernetes know, commands that our jobs know."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator

from jobs.demo_distillation import DistillJobConfig
from jobs.distill_draft import main
from pipeline.common.settings import build_config, read_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
SCHEMA = yaml.safe_load((ROOT / "tests" / "data" / "kuberay_schema.yaml").read_text())
KINDS = {"RayJob": "ray_job", "RayCronJob": "ray_cron_job", "CronJob": "cron_job"}


def documents() -> list[dict[str, Any]]:
    found = [doc for file in sorted(DEPLOY.glob("*.yaml")) for doc in yaml.safe_load_all(file.read_text())]
    return [doc for doc in found if doc["kind"] in KINDS]


def faults(document: dict[str, Any]) -> list[str]:
    schema = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{KINDS[document['kind']]}"}
    return [error.message for error in Draft202012Validator(schema).iter_errors(document)]


def the(kind: str) -> dict[str, Any]:
    (found,) = (doc for doc in documents() if doc["kind"] == kind)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_manifests_have_known_fields_of_known_types(kind: str) -> None:
    assert faults(the(kind)) == []


def test_a_fault_would_be_noticed() -> None:
    for path, value, complaint in (
        (("spec", "entrypont"), "python", "'entrypont' was unexpected"),
        (("spec", "backoffLimit"), "1", "'1' is not of type 'integer'"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), {"num-cpus": 0}, "0 is not of type 'string'"),
        (("spec", "clusterSelector"), {"a": "b"}, "is valid under each of"),
    ):
        broken = copy.deepcopy(the("RayJob"))
        place = broken
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert any(complaint in fault for fault in faults(broken)), (path, faults(broken))


def test_two_runs_never_overlap_on_kubernetes() -> None:
    spec = the("CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert "kubectl wait" in container["args"][0], "the CronJob's own job must last as long as the RayJob"


@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob"])
def test_the_command_is_one_of_ours(kind: str) -> None:
    spec = the(kind)["spec"]
    entrypoint = spec.get("entrypoint") or spec["jobTemplate"]["entrypoint"]
    module, *arguments = shlex.split(entrypoint)[2:]
    assert module == "jobs.distill_draft"
    app = typer.Typer()
    app.command()(main)
    parsed = typer.main.get_command(app).make_context("distill", list(arguments)).params
    assert parsed["states"] == "/data/states" and parsed["registry"] == "/data/registry"
    build_config(DistillJobConfig, {"target": "t"} | read_settings(None, parsed["settings"] or []))
