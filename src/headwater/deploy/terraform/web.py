"""The HTTP API, identities and the console's site in Terraform."""

from __future__ import annotations

from collections.abc import Iterator

from headwater.deploy import model
from headwater.deploy.cloudformation.web import CACHING_OPTIMIZED, SECURITY_HEADERS
from headwater.deploy.terraform.form import Form, Made, Reference


def api(form: Form, one: model.Api) -> Iterator[Made]:
    cors = None
    if one.cors:
        cors = {
            "allow_origins": list(one.cors.origins),
            "allow_methods": list(one.cors.methods),
            "allow_headers": list(one.cors.headers),
            "expose_headers": list(one.cors.exposed),
            "allow_credentials": one.credentials,
            "max_age": one.cors.max_age_s,
        }
    body = {
        "name": one.name,
        "description": one.description,
        "protocol_type": "HTTP",
        "cors_configuration": cors,
    }
    yield Made(id=one.id, type="aws_apigatewayv2_api", body=body)


def integration(form: Form, one: model.Integration) -> Iterator[Made]:
    body = {
        "api_id": one.api,
        "integration_type": "AWS_PROXY",
        "integration_uri": one.target,
        "integration_method": "POST",
        "payload_format_version": "2.0",
    }
    yield Made(id=one.id, type="aws_apigatewayv2_integration", body=body)


def route(form: Form, one: model.Route) -> Iterator[Made]:
    body = {
        "api_id": one.api,
        "route_key": one.key,
        "authorization_type": "NONE",
        "target": f"integrations/{one.integration}",
    }
    yield Made(id=one.id, type="aws_apigatewayv2_route", body=body)


def stage(form: Form, one: model.Stage) -> Iterator[Made]:
    body = {
        "api_id": one.api,
        "name": "$default",
        "auto_deploy": True,
        "default_route_settings": {
            "throttling_rate_limit": one.rate,
            "throttling_burst_limit": one.burst,
            "detailed_metrics_enabled": True,
        },
        "access_log_settings": {"destination_arn": one.log_group, "format": one.log_format},
    }
    yield Made(id=one.id, type="aws_apigatewayv2_stage", body=body)


def identity_pool(form: Form, one: model.IdentityPool) -> Iterator[Made]:
    pool = f"${{{one.id}.id}}"
    body = {
        "identity_pool_name": one.name,
        "allow_unauthenticated_identities": False,
        "allow_classic_flow": False,
        "openid_connect_provider_arns": [one.provider],
    }
    yield Made(id=one.id, type="aws_cognito_identity_pool", body=body)
    roles = {"identity_pool_id": pool, "roles": {"authenticated": one.role}}
    yield Made(id=one.id, type="aws_cognito_identity_pool_roles_attachment", body=roles)
    tags = {
        "identity_pool_id": pool,
        "identity_provider_name": one.provider,
        "use_defaults": False,
        "principal_tags": {one.tag: one.claim},
    }
    yield Made(id=one.id, type="aws_cognito_identity_pool_provider_principal_tag", body=tags)


def site(form: Form, one: model.Site) -> Iterator[Made]:
    access = {
        "name": one.name,
        "origin_access_control_origin_type": "s3",
        "signing_behavior": "always",
        "signing_protocol": "sigv4",
    }
    yield Made(id=one.id, type="aws_cloudfront_origin_access_control", body=access)
    body = {
        "comment": one.description,
        "enabled": True,
        "default_root_object": "index.html",
        "http_version": "http2and3",
        "is_ipv6_enabled": True,
        "price_class": "PriceClass_100",
        "origin": [
            {
                "origin_id": "files",
                "domain_name": f"${{{one.bucket}.name}}.s3.${{region}}.${{suffix}}",
                "origin_access_control_id": Reference(f"aws_cloudfront_origin_access_control.{one.id}.id"),
            }
        ],
        "default_cache_behavior": {
            "target_origin_id": "files",
            "viewer_protocol_policy": "redirect-to-https",
            "cache_policy_id": CACHING_OPTIMIZED,
            "response_headers_policy_id": SECURITY_HEADERS,
            "allowed_methods": ["GET", "HEAD"],
            "cached_methods": ["GET", "HEAD"],
            "compress": True,
        },
        "viewer_certificate": {"cloudfront_default_certificate": True},
        "restrictions": {"geo_restriction": {"restriction_type": "none"}},
    }
    yield Made(id=one.id, type="aws_cloudfront_distribution", body=body)
