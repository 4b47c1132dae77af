"""A stack as a CloudFormation template: models are turned into resources, tokens into references."""

from __future__ import annotations

from typing import Any

from headwater.deploy.cloudformation.form import Form, Made
from headwater.deploy.cloudformation.writers import write
from headwater.deploy.model import Output, Parameter, Stack
from headwater.errors import DeclarationError

MOST_RESOURCES, MOST_BYTES = 500, 1_000_000


def to_cloudformation(stack: Stack) -> dict[str, Any]:
    """The template, ready for `json.dumps`. Raises `DeclarationError` for a model that it does not know."""
    form = Form(stack)
    resources: dict[str, Any] = {}
    conditions: dict[str, Any] = {}
    for model in stack.resources:
        for made in write(form, model):
            entry = _entry(form, made)
            if model.only_if:
                entry["Condition"] = condition = f"Has{model.only_if}"
                conditions[condition] = {"Fn::Not": [{"Fn::Equals": [{"Ref": model.only_if}, ""]}]}
            resources[made.id] = entry
    if len(resources) > MOST_RESOURCES:
        raise DeclarationError(
            f"the stack has {len(resources)} resources, CloudFormation takes {MOST_RESOURCES}",
            operation="synth",
            resource=stack.name,
            hint="deploy some of the apps as a stack of their own",
        )
    template: dict[str, Any] = {"AWSTemplateFormatVersion": "2010-09-09", "Description": stack.description[:1024]}
    if stack.parameters:
        template["Parameters"] = {one.id: _parameter(one) for one in stack.parameters}
    if conditions:
        template["Conditions"] = conditions
    template["Resources"] = resources
    template["Outputs"] = {one.id: _output(form, one) for one in stack.outputs}
    sort_keys: dict[str, Any] = form.sorted(template)
    return sort_keys


def _entry(form: Form, made: Made) -> dict[str, Any]:
    entry: dict[str, Any] = {"Type": made.type, "Properties": form.filled(made.properties)}
    if made.keep:
        entry["DeletionPolicy"] = entry["UpdateReplacePolicy"] = "Retain"
    if after := form.present(made.after):
        entry["DependsOn"] = after
    return entry


def _parameter(parameter: Parameter) -> dict[str, Any]:
    kind = "String"
    if parameter.stored:
        kind = "AWS::SSM::Parameter::Value<String>"
    elif parameter.many:
        kind = "CommaDelimitedList"
    found = {"Type": kind, "Description": parameter.description}
    if parameter.default is not None:
        found["Default"] = parameter.default
    return found


def _output(form: Form, output: Output) -> dict[str, Any]:
    found: dict[str, Any] = {"Description": output.description, "Value": form.text(output.value)}
    if output.export:
        found["Export"] = {"Name": output.export}
    return found
