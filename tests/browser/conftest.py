"""The fixtures that all tests of the console share."""

from tests.browser.console_house import chromium, house, page

__all__ = ["chromium", "house", "page"]
