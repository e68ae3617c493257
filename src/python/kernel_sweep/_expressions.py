"""Expressions over whole numbers, as a family's shapes, arguments and grid have them."""

import ast
import functools

from .tuning import FamilyError

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Name, ast.Load, ast.Constant, ast.Call,
    ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
)  # fmt: skip
FUNCTIONS = {
    "cdiv": lambda a, b: -(-a // b),
    "ceil_div": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
    "next_power_of_2": lambda n: 1 << max(0, n - 1).bit_length(),
}


class _Whole(ast.NodeTransformer):
    """``/`` is whole, as in manifests."""

    def visit_Div(self, node):
        return ast.FloorDiv()


def _parsed(text):
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS)
        if not isinstance(node, _NODES) or is_call:
            raise FamilyError(f"'{text}': an expression has names, numbers, operators and {', '.join(FUNCTIONS)}")
    return ast.fix_missing_locations(_Whole().visit(tree))


def is_expression(text, names):
    """Whether a text is an expression of these names."""
    used = _names_of(text)
    return used is not None and all(name in names for name in used)


@functools.cache
def _names_of(text):
    """The names in an expression; nothing where it is none."""
    try:
        tree = _parsed(text)
    except (SyntaxError, FamilyError):
        return None
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - FUNCTIONS.keys()


def value_of(value, names):
    """The value of an expression of these names; what is none is itself."""
    if not isinstance(value, str) or not is_expression(value, names):
        return value
    return eval(_compiled(value), {"__builtins__": {}, **FUNCTIONS, **names})  # nothing but arithmetic, as was looked at


@functools.cache
def _compiled(text):
    return compile(_parsed(text), text, "eval")
