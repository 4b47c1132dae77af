"""From settings to who takes mail: an SMTP server, Amazon SES, or nobody."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import SecretStr

from headwater.config import Config
from headwater.durations import to_ms
from headwater.errors import DeclarationError
from headwater.mail_settings import Smtp, check_address, check_addresses
from headwater.runtime.mail import MailRules, Post
from headwater.runtime.ses import Ses
from headwater.runtime.smtp import SmtpServer


def mail_rules(config: Config, environ: Mapping[str, str] | None = None) -> MailRules:
    """Who takes mail, and who gets alarms. Raises `DeclarationError` when a password is not there."""
    variables = os.environ if environ is None else environ
    return MailRules(_post(config, variables), tuple(check_addresses(config.alerts)))


def _post(config: Config, variables: Mapping[str, str]) -> Post | None:
    if config.smtp is not None:
        return smtp_server(config.smtp, variables)
    if config.ses is not None:
        settings = config.ses
        return Ses(check_address(settings.sender), settings.configuration_set, to_ms(settings.timeout) / 1000)
    return None


def smtp_server(smtp: Smtp, variables: Mapping[str, str]) -> SmtpServer:
    """The server as it is called, the password read from the variable that is named."""
    return SmtpServer(
        host=smtp.host,
        sender=check_address(smtp.sender),
        security=smtp.security,
        port=smtp.port,
        username=smtp.username,
        password=read_secret(smtp.password, variables, "smtp"),
        timeout_s=to_ms(smtp.timeout) / 1000,
    )


def read_secret(text: str, variables: Mapping[str, str], setting: str) -> SecretStr:
    """A secret as a setting gives it: itself, or "env:" and the name of the variable that has it."""
    if text.startswith("env:"):
        variable = text.removeprefix("env:")
        if not variables.get(variable):
            raise DeclarationError(f"the variable {variable} is not set", operation="configure", resource=setting)
        text = variables[variable]
    return SecretStr(text)
