"""The HTTP API, identities and the console's site in CloudFormation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.deploy import model
from headwater.deploy.cloudformation.form import Form, Made

CACHING_OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"
SECURITY_HEADERS = "67f7725c-6f97-4210-82d7-5512b31e9d03"
"""CloudFront's managed policies: CachingOptimized, SecurityHeadersPolicy."""


def api(form: Form, one: model.Api) -> Iterator[Made]:
    cors = None
    if one.cors:
        cors = {
            "AllowOrigins": list(one.cors.origins),
            "AllowMethods": list(one.cors.methods),
            "AllowHeaders": list(one.cors.headers),
            "ExposeHeaders": list(one.cors.exposed),
            "AllowCredentials": one.credentials,
            "MaxAge": one.cors.max_age_s,
        }
    properties = {
        "Name": one.name,
        "Description": one.description,
        "ProtocolType": "HTTP",
        "CorsConfiguration": cors,
        "Tags": dict(sorted(form.stack.tags.items())),
    }
    yield Made(id=one.id, type="AWS::ApiGatewayV2::Api", properties=properties)


def integration(form: Form, one: model.Integration) -> Iterator[Made]:
    properties = {
        "ApiId": one.api,
        "IntegrationType": "AWS_PROXY",
        "IntegrationUri": one.target,
        "IntegrationMethod": "POST",
        "PayloadFormatVersion": "2.0",
    }
    yield Made(id=one.id, type="AWS::ApiGatewayV2::Integration", properties=properties)


def route(form: Form, one: model.Route) -> Iterator[Made]:
    properties = {
        "ApiId": one.api,
        "RouteKey": one.key,
        "AuthorizationType": "NONE",
        "Target": f"integrations/{one.integration}",
    }
    yield Made(id=one.id, type="AWS::ApiGatewayV2::Route", properties=properties)


def stage(form: Form, one: model.Stage) -> Iterator[Made]:
    properties: dict[str, Any] = {
        "ApiId": one.api,
        "StageName": "$default",
        "AutoDeploy": True,
        "DefaultRouteSettings": {
            "ThrottlingRateLimit": one.rate,
            "ThrottlingBurstLimit": one.burst,
            "DetailedMetricsEnabled": True,
        },
        "AccessLogSettings": {"DestinationArn": one.log_group, "Format": one.log_format},
        "Tags": dict(sorted(form.stack.tags.items())),
    }
    yield Made(id=one.id, type="AWS::ApiGatewayV2::Stage", properties=properties)


def identity_pool(form: Form, one: model.IdentityPool) -> Iterator[Made]:
    yield Made(
        id=one.id,
        type="AWS::Cognito::IdentityPool",
        properties={
            "IdentityPoolName": one.name,
            "AllowUnauthenticatedIdentities": False,
            "AllowClassicFlow": False,
            "OpenIdConnectProviderARNs": [one.provider],
        },
    )
    yield Made(
        id=f"{one.id}Roles",
        type="AWS::Cognito::IdentityPoolRoleAttachment",
        properties={"IdentityPoolId": f"${{{one.id}.id}}", "Roles": {"authenticated": one.role}},
    )
    yield Made(
        id=f"{one.id}Tags",
        type="AWS::Cognito::IdentityPoolPrincipalTag",
        properties={
            "IdentityPoolId": f"${{{one.id}.id}}",
            "IdentityProviderName": one.provider,
            "UseDefaults": False,
            "PrincipalTags": {one.tag: one.claim},
        },
    )


def site(form: Form, one: model.Site) -> Iterator[Made]:
    bucket = f"${{{one.bucket}.name}}"
    yield Made(
        id=f"{one.id}Access",
        type="AWS::CloudFront::OriginAccessControl",
        properties={
            "OriginAccessControlConfig": {
                "Name": one.name,
                "OriginAccessControlOriginType": "s3",
                "SigningBehavior": "always",
                "SigningProtocol": "sigv4",
            }
        },
    )
    origin = {
        "Id": "files",
        "DomainName": f"{bucket}.s3.${{region}}.${{suffix}}",
        "OriginAccessControlId": {"Fn::GetAtt": [f"{one.id}Access", "Id"]},
        "S3OriginConfig": {"OriginAccessIdentity": ""},
    }
    config = {
        "Comment": one.description,
        "Enabled": True,
        "DefaultRootObject": "index.html",
        "HttpVersion": "http2and3",
        "IPV6Enabled": True,
        "PriceClass": "PriceClass_100",
        "Origins": [origin],
        "DefaultCacheBehavior": {
            "TargetOriginId": "files",
            "ViewerProtocolPolicy": "redirect-to-https",
            "CachePolicyId": CACHING_OPTIMIZED,
            "ResponseHeadersPolicyId": SECURITY_HEADERS,
            "Compress": True,
        },
        "ViewerCertificate": {"CloudFrontDefaultCertificate": True},
    }
    yield Made(
        id=one.id,
        type="AWS::CloudFront::Distribution",
        properties={"DistributionConfig": config, "Tags": form.tags},
    )
