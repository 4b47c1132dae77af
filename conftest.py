"""Fixtures for the tests of the framework and of the apps."""

pytest_plugins = ["tests.memory", "tests.postgres.fixtures", "tests.aws.fixtures"]
