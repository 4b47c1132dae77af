"""The syntax tree of a function, found by its code object, and how places in it are written."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections import defaultdict
from functools import lru_cache
from types import CodeType, FunctionType
from typing import TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_LAMBDA = "<lambda>"


def node_of(fn: FunctionType) -> FunctionNode | None:
    """The function's definition; None when its source cannot be read."""
    code = fn.__code__
    found = _index(code.co_filename).get((code.co_name, code.co_firstlineno), [])
    if code.co_name == _LAMBDA and len(found) > 1:
        return next((node for node in found if _position(node) in _positions(code)), None)
    return found[0] if found else _lone_node(code)


def first_line(node: FunctionNode) -> int:
    """As code objects count: that of the first decorator."""
    if isinstance(node, ast.Lambda):
        return node.lineno
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


@lru_cache(maxsize=512)
def _index(filename: str) -> dict[tuple[str, int], list[FunctionNode]]:
    found: dict[tuple[str, int], list[FunctionNode]] = defaultdict(list)
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:  # a page of a manual, whose blocks were compiled
        return found
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            found[getattr(node, "name", _LAMBDA), first_line(node)].append(node)
    return found


@lru_cache(maxsize=512)
def _lone_node(code: CodeType) -> FunctionNode | None:
    """The definition read by itself, from a file that is no module."""
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]
    try:
        tree = ast.parse(textwrap.dedent("".join(inspect.getblock(lines))))
    except (SyntaxError, IndexError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode) and getattr(node, "name", _LAMBDA) == code.co_name:
            ast.increment_lineno(tree, code.co_firstlineno - 1)
            return node
    return None


def _position(node: FunctionNode) -> tuple[int, int]:
    body = node.body
    assert isinstance(body, ast.expr)
    return body.lineno, body.col_offset


def _positions(code: CodeType) -> set[tuple[int | None, int | None]]:
    return {(line, column) for line, _, column, _ in code.co_positions()}
