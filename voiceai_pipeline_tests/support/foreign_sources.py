"""Finds, in a module's source, what others wrote and no function of a medium has had."""

import ast
from collections.abc import Iterator
from typing import Final

FOREIGN: Final = (
    "name", "location_name", "business_name", "agent_name", "action_name", "data_key", "message",
    "detail", "cause", "headline", "failure", "trace_id",
)  # fmt: skip
"""Attributes and columns that hold what others wrote."""

OURS: Final = {"column.name", "table.name", "self.name", "child.name", "channel.name"}

SAFE: Final = {"shown", "cleaned", "medium", "_name", "some_names"}


def raw(node: ast.AST, foreign: tuple[str, ...] = FOREIGN) -> Iterator[ast.AST]:
    """Foreign values below the node that no function of a medium has had."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in SAFE:
        return
    if isinstance(node, ast.Attribute):
        if node.attr in foreign and ast.unparse(node) not in OURS:
            yield node
        return
    if isinstance(node, ast.Name) and node.id == "error":
        yield node
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        if node.slice.value in foreign:
            yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from raw(child, foreign)


LOGGING: Final = ("debug", "info", "warning", "error", "exception", "critical", "log")


def logged(tree: ast.AST) -> Iterator[ast.AST]:
    """What the module hands to a logger."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LOGGING
            and ast.unparse(node.func.value) in ("log", "context.log", "self.context.log")
        ):
            yield from node.args


PRINTERS: Final = ("click.echo", "sys.stdout.write", "sys.stderr.write", "print")


def printed(tree: ast.AST) -> Iterator[ast.AST]:
    """What the module prints past the one console of the command line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTERS:
            yield from node.args
