"""The cluster guide: its commands are those that there are, and its manifests are whole."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from typer.main import get_command

from sparsevlr.search.cli import app
from sparsevlr.spaces import StudySpec

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "cluster.md").read_text()
MANIFESTS = DOCS / "cluster"


def parsed(line: str) -> dict[str, Any]:
    """What the command line takes a command for, without running it; unknown words raise."""
    program, name, *arguments = shlex.split(line, comments=True)
    assert program == "sparsevlr"
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    return command.make_context(name, arguments).params  # type: ignore[no-any-return]


def test_every_command_of_the_guide_is_understood() -> None:
    text = GUIDE.replace("\\\n", " ").replace("python -m sparsevlr.search", "sparsevlr")
    commands = re.findall(r"^(?:ray job submit .* -- +)?(sparsevlr .*)$", text, flags=re.MULTILINE)
    names = [shlex.split(line)[1] for line in commands]
    assert {"check", "search", "status", "resume"} <= set(names)
    for line in commands:
        assert parsed(line).get("address", "") is not None


def test_every_resource_is_in_the_guide_and_links_lead_somewhere() -> None:
    for key in StudySpec.model_fields["resources"].annotation.model_fields:  # type: ignore[union-attr]
        assert f"`resources.{key}`" in GUIDE
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", GUIDE):
        assert (DOCS / target).exists(), target


def test_the_file_for_the_cluster_launcher_fits_its_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = yaml.safe_load((MANIFESTS / "ray-cluster.yaml").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"worker_ips": []}, schema)
    assert all("RAY_AUTH_MODE=token" in config[f"{role}_start_ray_commands"][-1] for role in ("head", "worker"))


def test_the_manifest_for_kubernetes_is_whole() -> None:
    job = yaml.safe_load((MANIFESTS / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    command = parsed(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    workers = cluster["workerGroupSpecs"]
    for group in (cluster["headGroupSpec"], *workers):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == volumes
        assert any(command["storage"].startswith(f"{path}/") for path in mounts.values())
        assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} == {variable["name"] for variable in container["env"]}
    for group in workers:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
        grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
        hook = group["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert "pkill -TERM" in hook
        assert int(hook.rpartition(" ")[2]) < grace
