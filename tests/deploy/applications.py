"""The five applications as environments on AWS: what their golden templates are made of, and all else is tested on."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import msgspec

from headwater import App
from headwater.config import Config
from headwater.deploy.model import Stack
from headwater.deploy.stack import synthesize
from headwater.graph import build_graph

_ERASURE = {
    "env": {"ERASURE_VENDOR_URL": "https://vendor.example", "ERASURE_TECHNICAL_CONTACT": "privacy@shop.example"},
    "secrets": {"ERASURE_VENDOR_TOKEN": "shop/vendor:token"},
}
_EVERYTHING = {
    "stack": "shop-all",
    **_ERASURE,
    "functions": {
        "intake/http": {"provisioned": 2, "memory": 1024, "architecture": "x86_64"},
        "intake/incoming": {"reserved": 20, "concurrency": 10, "timeout": "2m"},
    },
    "tags": {"team": "shop"},
    "network": {"internet": True},
    "exports": ["catalog/product-events"],
    "accounts": ["123456789012"],
    "tables": {"catalog/products": "products-of-old"},
    "buckets": {"directory/drops": "drops-of-old"},
    "uploads": {"provider": "arn:aws:iam::123456789012:oidc-provider/login.shop.example", "tables": True},
    "console": True,
    "tracing": True,
    "alarm_email": "ops@shop.example",
    "terraform": {"bucket": "shop-terraform", "workspaces": True},
}
_MAIL = {"ses": {"sender": "shop@shop.example"}}
APPLICATIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "catalog": (("catalog", "reporting"), {"aws": {"stack": "shop-catalog"}, **_MAIL}),
    "directory": (("directory",), {"aws": {"stack": "shop-directory"}, **_MAIL}),
    "erasure": (("erasure",), {"aws": {"stack": "shop-erasure", **_ERASURE}, **_MAIL}),
    "gallery": (("gallery",), {"aws": {"stack": "shop-gallery"}}),
    "intake": (("intake",), {"aws": {"stack": "shop-intake"}, "cors": {"origins": ["https://shop.example"]}}),
}
"""Each alone, in the way that their acceptance tests deploy them."""
VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "catalog-exported": (("catalog",), {"aws": {"stack": "shop-catalog", "exports": ["catalog/product-events"]}}),
    "reporting-importing": (
        ("reporting",),
        {"aws": {"stack": "shop-reporting", "imports": {"catalog": "shop-catalog"}}},
    ),
    "assorted": (
        ("depot",),
        {
            "aws": {
                "stack": "shop-depot",
                "env": {"DEPOT_MOTTO": "${not} a reference"},
                "secrets": {"DEPOT_SECRET": "depot/secret", "DEPOT_KEY": "depot/keys:one"},
                "functions": {
                    "depot/http": {"provisioned": 2, "memory": 1024, "architecture": "x86_64"},
                    "depot/orders": {"reserved": 20, "concurrency": 10, "timeout": "2m"},
                    "headwater/tick": {"provisioned": 1},
                },
                "tags": {"team": "depot"},
                "network": {"internet": True},
                "exports": ["depot/moves"],
                "accounts": ["123456789012"],
                "tables": {"depot/counts": "counts-of-old"},
                "uploads": {"provider": "arn:aws:iam::123456789012:oidc-provider/login.shop.example", "tables": True},
                "console": True,
                "tracing": True,
                "terraform": {"bucket": "shop-terraform", "workspaces": True},
            },
            "cors": {"origins": ["https://shop.example"]},
            "alerts": "ops@shop.example",
            **_MAIL,
        },
    ),
    "everything": (
        ("catalog", "directory", "erasure", "gallery", "intake"),
        {"aws": _EVERYTHING, "cors": {"origins": ["https://shop.example"]}, "alerts": "ops@shop.example", **_MAIL},
    ),
    "private": (("intake",), {"aws": {"stack": "shop-private", "network": {}, "keep_data": False}}),
}
"""Every option at least once."""
ALL = {**APPLICATIONS, **VARIANTS}


def app_of(name: str) -> App[Any]:
    found: App[Any] = importlib.import_module(_module_of(name)).app
    return found


def _module_of(name: str) -> str:
    return "tests.deploy.depot" if name == "depot" else f"apps.{name}.app"


@cache
def stack_of(name: str) -> Stack:
    names, settings = ALL[name]
    apps = [_module_of(app) for app in names]
    config = msgspec.convert({"apps": apps, "environment": "prod", **settings}, Config, strict=False)
    loaded = [app_of(app) for app in names]
    try:
        return synthesize(build_graph(loaded), config)
    finally:
        for app in loaded:
            app._settings = None
