"""From graphs and settings to stacks: what is refused, what is said in other words on AWS, and what templates share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headwater import App, Event
from headwater.config import Config
from headwater.deploy.cloudformation import to_cloudformation
from headwater.deploy.model import Resource, Role, Stack, Statement
from headwater.deploy.permissions import CHECKS, NEEDS, NOT_HERE, Access, statements_of
from headwater.deploy.policies import policy_document
from headwater.deploy.roles import INLINE_ROOM, MANAGED_ROOM, packed, size_of
from headwater.deploy.stack import synthesize
from headwater.deploy.terraform import to_terraform
from headwater.deploy.text import Token, literal, longest, parse
from headwater.deploy.times import to_aws
from headwater.deploy.workers import steps_of
from headwater.errors import DeclarationError
from headwater.graph import build_graph
from headwater.permits import VERBS, verbs_of
from headwater.scaling import Scale
from headwater.schedules import ScheduleSpec
from tests.deploy.applications import ALL, stack_of
from tests.deploy.resolving import Resolver, many


def stack_with(app: App[Any], **aws: Any) -> Stack:
    config = msgspec.convert({"apps": ["shop"], "aws": {"stack": "shop-test", **aws}}, Config, strict=False)
    return synthesize(build_graph([app]), config)


def resolver_of(stack: Stack) -> Resolver:
    return Resolver(to_cloudformation(stack))


# Texts


def test_texts_have_tokens_and_literals() -> None:
    assert list(parse("a-${region}-${Table.arn}${!aws:PrincipalTag/owner}")) == [
        "a-",
        Token("", "region"),
        "-",
        Token("Table", "arn"),
        "${aws:PrincipalTag/owner}",
    ]
    assert "".join(map(str, parse(literal("${mine}")))) == "${mine}"
    assert longest("${region}${account}") == "ap-northeast-1000000000000"
    with pytest.raises(ValueError, match="stands for nothing"):
        list(parse("${nobody}"))


def test_a_value_from_outside_is_no_reference() -> None:
    variables = to_cloudformation(stack_of("assorted"))["Resources"]["DepotOrdersQueueFunction"]["Properties"]
    assert variables["Environment"]["Variables"]["DEPOT_MOTTO"] == "${not} a reference"
    function = to_terraform(stack_of("assorted"))["resource"]["aws_lambda_function"]["DepotOrdersQueueFunction"]
    assert function["environment"]["variables"]["DEPOT_MOTTO"] == "$${not} a reference"


def test_secrets_stay_where_they_are() -> None:
    stack = stack_of("assorted")
    function = to_cloudformation(stack)["Resources"]["DepotOrdersQueueFunction"]["Properties"]
    assert function["Environment"]["Variables"]["DEPOT_KEY"] == "{{resolve:secretsmanager:depot/keys:SecretString:one}}"
    variables = to_terraform(stack)["resource"]["aws_lambda_function"]["DepotOrdersQueueFunction"]["environment"]
    text = "data.aws_secretsmanager_secret_version.DEPOT_KEY.secret_string"
    assert variables["variables"]["DEPOT_KEY"] == f'${{jsondecode({text})["one"]}}'


# Schedules


@pytest.mark.parametrize(
    ("when", "expression"),
    [
        ("1h", "rate(1 hour)"),
        ("90m", "rate(90 minutes)"),
        ("1d", "rate(1 day)"),
        ("rate(5 minutes)", "rate(5 minutes)"),
        ("0 9 * * mon-fri", "cron(0 9 ? * MON-FRI *)"),
        ("*/5 8-18 * * 1-5", "cron(*/5 8-18 ? * MON-FRI *)"),
        ("0 0 1 1,7 *", "cron(0 0 1 1,7 ? *)"),
        ("0 9 * * 0,7", "cron(0 9 ? * SUN,SUN *)"),
        ("30 6 * * *", "cron(30 6 * * ? *)"),
        ("cron(0 9 ? * MON-FRI *)", "cron(0 9 ? * MON-FRI *)"),
        ("at(2030-12-24T18:00:00)", "at(2030-12-24T18:00:00)"),
    ],
)
def test_schedules_are_said_in_the_words_of_aws(when: str, expression: str) -> None:
    assert to_aws(ScheduleSpec(when=when)) == expression


@pytest.mark.parametrize("when", ["30s", "90s", "0 9 1 * mon", "0 9 * * */2"])
def test_what_aws_cannot_say_is_refused(when: str) -> None:
    with pytest.raises(DeclarationError):
        to_aws(ScheduleSpec(when=when))


def test_a_refused_schedule_is_named() -> None:
    app = App("shop")
    app.schedule(timedelta(seconds=10), name="often").to(app.topic("ticks"))
    with pytest.raises(DeclarationError, match="shop/often"):
        stack_with(app)


# What is refused


def test_a_model_of_another_kind_is_an_error() -> None:
    class Lighthouse(Resource, frozen=True):
        pass

    base = stack_of("intake")
    stack = msgspec.structs.replace(base, resources=(*base.resources, Lighthouse(id="Lighthouse")))
    for write in (to_cloudformation, to_terraform):
        with pytest.raises(DeclarationError, match="no writer for Lighthouse"):
            write(stack)


def test_a_reference_to_nothing_is_an_error() -> None:
    lost = Role(id="Lost", name="lost", trust=(), statements=(Statement(actions=("a:b",), resources=("${No.arn}",)),))
    base = stack_of("intake")
    for write in (to_cloudformation, to_terraform):
        with pytest.raises(LookupError):
            write(msgspec.structs.replace(base, resources=(*base.resources, lost)))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tables": {"shop/none": "old"}}, "shop/none"),
        ({"exports": ["shop/none"]}, "shop/none"),
        ({"functions": {"shop/none": {"memory": 1024}}}, "shop/none"),
    ],
)
def test_settings_of_nothing_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        stack_with(App("shop"), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"stack": "Shop"},
        {"timeout": "16m"},
        {"timeout": "soon"},
        {"log_retention": "long"},
        {"env": {"A-B": "c"}},
        {"accounts": ["12"]},
        {"imports": {"catalog": "Not A Stack"}},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"aws": settings}, Config)


def test_another_stacks_topic_needs_a_stack() -> None:
    app = App("shop")
    app.foreign("catalog/product-events", dict).to(app.queue("news"))
    with pytest.raises(DeclarationError, match="catalog/product-events"):
        stack_with(app)


def test_a_handler_that_takes_too_long_is_for_a_container() -> None:
    app = App("shop")

    @app.on(app.queue("slow"), timeout="20m")
    async def work(event: Event[dict[str, Any]]) -> None: ...

    with pytest.raises(DeclarationError, match="run_in") as refused:
        stack_with(app)
    assert refused.value.resource == "shop/slow"


def test_resources_with_one_name_on_aws_are_refused() -> None:
    app = App("shop")
    app.table("a-b", dict, key="id")
    app.table("a_b", dict, key="id")
    with pytest.raises(DeclarationError, match="ShopABTable"):
        stack_with(app)


def test_too_many_variables_are_refused() -> None:
    with pytest.raises(DeclarationError, match="4096"):
        stack_with(App("shop"), env={"LONG": "x" * 4000})


# Functions and their queues


def test_visibility_covers_six_runs() -> None:
    resolver = resolver_of(stack_of("assorted"))
    functions, queues = dict(resolver.of_type("AWS::Lambda::Function")), dict(resolver.of_type("AWS::SQS::Queue"))
    assert functions["DepotOrdersQueueFunction"]["Timeout"] == 120
    assert queues["DepotOrdersQueue"]["VisibilityTimeout"] == 720
    assert functions["DepotHeavyQueueFunction"]["Timeout"] == 35


def test_a_ready_function_is_called_by_its_alias_alone() -> None:
    resolver = resolver_of(stack_of("assorted"))
    integration = dict(resolver.of_type("AWS::ApiGatewayV2::Integration"))["DepotIntegration"]
    permission = dict(resolver.of_type("AWS::Lambda::Permission"))["DepotApiPermission"]
    schedule = dict(resolver.of_type("AWS::Scheduler::Schedule"))["DepotHourlySchedule"]
    for target in (integration["IntegrationUri"], permission["FunctionName"], schedule["Target"]["Arn"]):
        assert target.endswith(":live")


def test_another_setting_is_another_version() -> None:
    def described(memory: int) -> str:
        app = App("shop")
        app.on(app.queue("work"))(handle)
        stack = stack_with(app, functions={"shop/work": {"provisioned": 1, "memory": memory}})
        text: str = to_cloudformation(stack)["Resources"]["ShopWorkQueueFunctionVersionFrozen"]["Properties"][
            "Description"
        ]["Fn::Sub"]
        return text

    async def handle(event: Event[dict[str, Any]]) -> None: ...

    assert described(512) != described(1024)
    assert "${CodeKey}" in described(512)


def test_workers_are_as_many_as_the_scale_says() -> None:
    assert steps_of(Scale(max=3)) == ((1, 1), (2, 2), (3, 3))
    assert steps_of(Scale(max=2, backlog_per_worker=10)) == ((1, 1), (11, 2))
    many_steps = steps_of(Scale(max=200, backlog_per_worker=5))
    assert len(many_steps) <= 20
    assert many_steps[-1][1] == 200
    assert [start for start, _ in many_steps] == sorted({start for start, _ in many_steps})


# Permissions


def test_every_verb_has_its_permissions() -> None:
    verbs = {(kind, verb) for kind in VERBS for verb in verbs_of(kind)}
    assert verbs <= {*NEEDS, *NOT_HERE}
    assert not set(NEEDS) & NOT_HERE
    assert set(CHECKS) <= set(VERBS)


def allowed(stack: Stack, role: str) -> set[tuple[str, str]]:
    found = dict(resolver_of(stack).of_type("AWS::IAM::Role"))[role]
    return {
        (action, resource)
        for policy in found["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        for action in many(statement["Action"])
        for resource in many(statement["Resource"])
    }


def on_tables(stack: Stack, role: str) -> set[tuple[str, str]]:
    """(action, table or index) of a role, without Headwater's own."""
    own = {"store", "outbox", "journal"}
    found = {(action, resource.partition(":table/")[2]) for action, resource in allowed(stack, role)}
    plain = {(action.partition(":")[2], name.removeprefix(f"{stack.name}-")) for action, name in found if name}
    return {(action, name) for action, name in plain if name not in own and not name.startswith("headwater-")}


def test_a_handler_may_do_what_its_code_does_and_no_more() -> None:
    stack = stack_of("assorted")
    assert on_tables(stack, "DepotAnnounceQueueRole") == set()
    assert on_tables(stack, "DepotFollowQueueRole") == {("GetItem", "counts-of-old")}
    assert on_tables(stack, "DepotHeavyQueueRole") == {
        ("BatchGetItem", "counts-of-old"),
        ("GetItem", "counts-of-old"),
        ("PutItem", "counts-of-old"),
    }
    table = "depot-parcels"
    assert on_tables(stack, "DepotTidyQueueRole") == {
        (action, place) for action in ("Query", "Scan") for place in (table, f"{table}/index/by-by-state")
    }


def test_only_the_relay_sends_and_publishes() -> None:
    stack = stack_of("assorted")
    sending = {
        role
        for role, _ in resolver_of(stack).of_type("AWS::IAM::Role")
        if any(action in ("sqs:SendMessage", "sns:Publish") for action, _ in allowed_or_nothing(stack, role))
    }
    assert sending == {
        "HeadwaterRelayRole",
        "HeadwaterDelaysRole",
        "HeadwaterAlarmRole",
        "HeadwaterTickRole",
        "HeadwaterObjectsRole",
    }
    lost = f"arn:aws:sqs:eu-central-1:000000000000:{stack.name}-headwater-lost"
    for role in sending - {"HeadwaterRelayRole", "HeadwaterDelaysRole"}:
        assert [resource for action, resource in allowed(stack, role) if action == "sqs:SendMessage"] == [lost]


def allowed_or_nothing(stack: Stack, role: str) -> set[tuple[str, str]]:
    return allowed(stack, role) if "Policies" in dict(resolver_of(stack).of_type("AWS::IAM::Role"))[role] else set()


def test_no_function_may_write_the_catalog() -> None:
    """The routes stand in the store table: who may write them may send anything anywhere."""
    for id, role in resolver_of(stack_of("assorted")).of_type("AWS::IAM::Role"):
        for policy in role.get("Policies", ()):
            for statement in policy["PolicyDocument"]["Statement"]:
                writes = {"dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"} & set(
                    many(statement["Action"])
                )
                if writes and any(
                    resource.endswith("table/shop-depot-store") for resource in many(statement["Resource"])
                ):
                    keys = statement["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"]
                    assert all(key.startswith(("claim#", "done#", "dead#", "attempts#")) for key in many(keys)), id


def test_users_reach_their_own_alone() -> None:
    role = dict(resolver_of(stack_of("assorted")).of_type("AWS::IAM::Role"))["HeadwaterUploaderRole"]
    statements = role["Policies"][0]["PolicyDocument"]["Statement"]
    objects = next(one for one in statements if "s3:PutObject" in one["Action"])
    assert objects["Resource"].endswith("/${aws:PrincipalTag/owner}/*")
    rows = next(one for one in statements if "dynamodb:GetItem" in one["Action"])
    assert rows["Condition"] == {
        "ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["${aws:PrincipalTag/owner}"]},
        "Null": {"dynamodb:LeadingKeys": "false"},
    }


def test_statements_say_exactly_what_is_accessed() -> None:
    accesses = [
        Access("dynamodb:GetItem", "a"),
        Access("dynamodb:GetItem", "b"),
        Access("dynamodb:PutItem", "b"),
        Access("dynamodb:PutItem", "s", ("x#*",)),
        Access("dynamodb:PutItem", "s", ("y#*",)),
        Access("dynamodb:Query", "s", ("x#*",)),
        Access("dynamodb:Query", "s"),
    ]
    keyed: dict[str, dict[str, str | tuple[str, ...]]] = {
        "ForAllValues:StringLike": {"dynamodb:LeadingKeys": ("x#*", "y#*")}
    }
    assert statements_of(accesses) == (
        Statement(actions=("dynamodb:GetItem",), resources=("a",)),
        Statement(actions=("dynamodb:GetItem", "dynamodb:PutItem"), resources=("b",)),
        Statement(actions=("dynamodb:PutItem",), resources=("s",), conditions=keyed),
        Statement(actions=("dynamodb:Query",), resources=("s",)),
    )


def test_a_large_role_has_managed_policies() -> None:
    arns = tuple(f"arn:${{partition}}:sqs:${{region}}:${{account}}:queue-{n:060d}" for n in range(150))
    role = Role(id="Big", name="big", trust=(), statements=(Statement(actions=("sqs:SendMessage",), resources=arns),))
    assert size_of(role.statements) > INLINE_ROOM
    first, *policies = packed(role)
    assert isinstance(first, Role)
    assert first.statements == ()
    assert len(policies) > 1
    found: list[str] = []
    for policy in policies:
        statements: tuple[Statement, ...] = policy.statements  # type: ignore[attr-defined]
        assert size_of(statements) <= MANAGED_ROOM
        found += [resource for statement in statements for resource in statement.resources]
    assert sorted(found) == sorted(arns)


def test_a_role_that_nothing_can_hold_is_refused() -> None:
    arns = tuple(f"arn:aws:sqs:eu-central-1:000000000000:queue-{n:060d}" for n in range(900))
    role = Role(id="Big", name="big", trust=(), statements=(Statement(actions=("sqs:SendMessage",), resources=arns),))
    with pytest.raises(DeclarationError, match="split the app"):
        list(packed(role))


def test_a_document_is_what_iam_reads() -> None:
    statement = Statement(
        principal=("Service", ("sns.amazonaws.com",)), actions=("sqs:SendMessage",), resources=("a", "b"), sid="S"
    )
    assert policy_document([statement]) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Sid": "S",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": ["a", "b"],
            }
        ],
    }


# Terraform beside CloudFormation


@pytest.mark.parametrize("name", ALL)
def test_terraform_names_only_what_it_has(name: str) -> None:
    found = to_terraform(stack_of(name))
    known = {f"{type_}.{id}" for type_, entries in found["resource"].items() for id in entries}
    known |= {f"data.{type_}.{id}" for type_, entries in found["data"].items() for id in entries}
    known |= {f"var.{id}" for id in found.get("variable", {})}
    for reference in references(json.dumps(found)):
        assert reference in known, reference


def references(text: str) -> set[str]:
    text = text.replace("$${", "")
    inside = re.findall(r"\$\{([^}]*)\}", text)
    pattern = r"\b(?:data\.aws_\w+\.\w+|aws_\w+\.\w+|var\.\w+)"
    return {reference for one in inside for reference in re.findall(pattern, one)}


@pytest.mark.parametrize("name", ALL)
def test_both_templates_have_the_same_tables_queues_functions_and_policies(name: str) -> None:
    stack = stack_of(name)
    cloudformation, terraform = to_cloudformation(stack)["Resources"], to_terraform(stack)["resource"]
    for type_, other in (
        ("AWS::DynamoDB::Table", "aws_dynamodb_table"),
        ("AWS::SQS::Queue", "aws_sqs_queue"),
        ("AWS::SNS::Topic", "aws_sns_topic"),
        ("AWS::Lambda::Function", "aws_lambda_function"),
        ("AWS::Lambda::EventSourceMapping", "aws_lambda_event_source_mapping"),
        ("AWS::IAM::Role", "aws_iam_role"),
        ("AWS::CloudWatch::Alarm", "aws_cloudwatch_metric_alarm"),
        ("AWS::S3::Bucket", "aws_s3_bucket"),
    ):
        ids = {id for id, resource in cloudformation.items() if resource["Type"] == type_}
        assert ids == set(terraform.get(other, {})), type_


def test_terraform_keeps_its_state_where_it_is_told() -> None:
    found = to_terraform(stack_of("assorted"))
    assert found["terraform"]["backend"]["s3"]["bucket"] == "shop-terraform"
    precondition = found["resource"]["terraform_data"]["Workspace"]["lifecycle"]["precondition"]
    assert 'terraform.workspace == "prod"' in precondition[0]["condition"]
    assert "backend" not in to_terraform(stack_of("intake"))["terraform"]


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_terraform_reads_it(tmp_path: Path) -> None:
    """Its syntax and blocks of its own; what the provider says of it, only the provider knows."""
    template = to_terraform(stack_of("assorted"))
    del template["terraform"]["backend"]
    (tmp_path / "main.tf.json").write_text(json.dumps(template), "utf-8")
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull}
    command = ["terraform", "providers"]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "hashicorp/aws" in told.stdout
