"""A stack as Terraform's JSON: the same models as CloudFormation's, for the provider hashicorp/aws."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from headwater.deploy.model import Output, Parameter, Resource, Stack
from headwater.deploy.terraform.form import Form, Made
from headwater.deploy.terraform.writers import write

TERRAFORM, PROVIDER = ">= 1.10", "~> 6.0"


def to_terraform(stack: Stack) -> dict[str, Any]:
    """The configuration, ready for `json.dumps`. Raises `DeclarationError` for a model that it does not know."""
    form = Form(stack)
    resources: dict[str, dict[str, Any]] = defaultdict(dict)
    for model in stack.resources:
        for made in write(form, model):
            resources[made.type][made.id] = _entry(form, model, made)
    if stack.state.workspaces:
        resources["terraform_data"]["Workspace"] = _workspace(stack.environment)
    found: dict[str, Any] = {
        "terraform": _settings(stack),
        "provider": {"aws": {"default_tags": {"tags": dict(stack.tags)}}},
        "data": _data(stack),
        "resource": dict(resources),
        "output": {output.id: _output(form, output) for output in stack.outputs},
    }
    if stack.parameters:
        found["variable"] = {one.id: _variable(one) for one in stack.parameters if not one.stored}
    ordered: dict[str, Any] = _sorted(found)
    return ordered


def _entry(form: Form, model: Resource, made: Made) -> dict[str, Any]:
    entry: dict[str, Any] = form.filled(made.body)
    if model.only_if:
        entry["count"] = f'${{var.{model.only_if} == "" ? 0 : 1}}'
    if after := {*form.addresses((*model.after, *made.after)), *made.needs}:
        entry["depends_on"] = sorted(after)
    if made.keep:
        entry["lifecycle"] = {"prevent_destroy": True}
    return entry


def _settings(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = {
        "required_version": TERRAFORM,
        "required_providers": {"aws": {"source": "hashicorp/aws", "version": PROVIDER}},
    }
    if stack.state.bucket:
        key = stack.state.key or f"{stack.name}.tfstate"
        backend = {"bucket": stack.state.bucket, "key": key, "encrypt": True, "use_lockfile": True}
        if stack.state.workspaces:
            backend["workspace_key_prefix"] = "headwater"
        found["backend"] = {"s3": backend}
    return found


def _workspace(environment: str) -> dict[str, Any]:
    """Nobody applies one environment in the workspace of another."""
    condition = f'${{terraform.workspace == "{environment}"}}'
    message = f"This is the environment {environment}: terraform workspace select -or-create {environment}"
    return {"lifecycle": {"precondition": [{"condition": condition, "error_message": message}]}}


def _data(stack: Stack) -> dict[str, Any]:
    names = ("region", "caller_identity", "partition", "availability_zones")
    found: dict[str, Any] = {f"aws_{name}": {"current": {}} for name in names}
    if stored := {one.id: {"name": one.default} for one in stack.parameters if one.stored}:
        found["aws_ssm_parameter"] = stored
    if stack.secrets:
        found["aws_secretsmanager_secret_version"] = {
            name: {"secret_id": secret.partition(":")[0]} for name, secret in stack.secrets.items()
        }
    return found


def _variable(parameter: Parameter) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "list(string)" if parameter.many else "string",
        "description": parameter.description,
    }
    if parameter.default is not None:
        found["default"] = parameter.default
    return found


def _output(form: Form, output: Output) -> dict[str, Any]:
    return {"value": form.text(output.value), "description": output.description}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value
