"""Text to values: Python's own syntax, of which a white list is read and nothing is run."""

import ast
import inspect
import io
import operator
import tokenize
import warnings
from collections.abc import Callable

from kdjax.spec.expression import Expression, Place, Value, finite, is_number, plain
from kdjax.spec.formula import Call, Formula, Summand, Weighted
from kdjax.spec.varying import KINDS, Schedule, Set
from kdjax.types import BadInput, nearest

ACCEPTED = "numbers, NAME, NAME(argument, key=value), NUMBER*NAME(...) and sums of them, tuples, strings in quotes"

_DEEPEST = 40
_WHITE = str.maketrans("\n\r\t\f\v", "     ")
_OPERATORS: dict[type[ast.operator] | type[ast.unaryop], Callable[..., Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_SUM = "sums of numbers, or of NAME and NUMBER*NAME"
_OPERANDS: dict[type, tuple[type, str]] = {
    ast.Add: (Summand, _SUM),
    ast.Sub: (Summand, _SUM),
    ast.Mult: (Expression, "NUMBER*NAME; a schedule or a set may stand for the number"),
    ast.Div: (Expression, "NUMBER/NUMBER or NAME/NUMBER"),
    ast.Pow: (int, "NUMBER**NUMBER"),
    ast.UAdd: (int, "a number after a plus"),
}
"""What an operator takes beside numbers, and what is accepted, in words."""
_REFUSED = {
    ast.Lambda: "a function",
    ast.Subscript: "an index",
    ast.Compare: "a comparison",
    ast.JoinedStr: "an f-string",
    ast.Starred: "a star",
    ast.NamedExpr: "an assignment",
    ast.List: "a list",
    ast.Dict: "a dict",
    ast.Set: "a set in braces",
    ast.IfExp: "a condition",
    ast.BoolOp: "a condition",
    ast.Attribute: "a dot after what is no name",
}


def parse(text: str, *, flag: str = "text") -> Value:
    """The value that a text says.

    Args:
        text: in the grammar of `kdjax.spec`; line breaks are spaces.
        flag: that it was typed for, for messages.

    Returns:
        A number, a string, True, False, None, a `Call`, a `Formula`, a `Schedule`, a `Set`, or a tuple of such.

    Raises:
        BadInput: another text; the message shows the place, what was read there and what is accepted.

    >>> parse("fgsm, pgd(steps=40, epsilon=8/255)")
    (fgsm, pgd(epsilon=0.03137254901960784, steps=40))
    """
    whole = Place(flag, text, 0)
    flat = text.translate(_WHITE)
    source = flat.strip(" ")
    if not source:
        raise whole.error(f"read nothing; accepted: {ACCEPTED}")
    start = len(flat) - len(flat.lstrip(" "))
    try:
        tree = _tree(source, lambda column: Place(flag, text, min(start + column, len(text))))
        return _Reader(source, lambda column: Place(flag, text, start + column)).read(tree, 0)
    except (RecursionError, MemoryError):
        accepted = f"up to {_DEEPEST} calls and tuples in one another, and some hundred terms"
        raise whole.error(f"read too many parts; accepted: {accepted}") from None


def call(value: Value, *, flag: str = "text") -> Call:
    """One call, as text or as it is.

    Raises: BadInput: as `parse`, or another value.
    """
    return _expect(value, flag, lambda v: isinstance(v, Call), "one NAME or NAME(...)")


def calls(value: Value, *, flag: str = "text") -> tuple[Call, ...]:
    """Calls, with commas between them, as text or as they are.

    >>> calls("mlp(128), cnn(8, 16)"), calls("lenet")
    ((mlp(128), cnn(8, 16)), (lenet,))

    Raises: BadInput: as `parse`, or another value.
    """

    def fits(found: Value) -> bool:
        return isinstance(found, Call) or (isinstance(found, tuple) and all(isinstance(one, Call) for one in found))

    found = _expect(value, flag, lambda v: v != () and fits(v), "NAME or NAME(...), with commas between several")
    return found if isinstance(found, tuple) else (found,)


def summands(value: Value, *, flag: str = "text") -> tuple[Summand, ...]:
    """Calls and formulas, with commas between them, as text or as they are.

    >>> summands("vote + entropy(scale=0.3), majority")
    (vote + entropy(scale=0.3), majority)

    Raises: BadInput: as `parse`, or another value.
    """

    def fits(found: Value) -> bool:
        return isinstance(found, Summand) or (isinstance(found, tuple) and all(isinstance(x, Summand) for x in found))

    wanted = "NUMBER*NAME(...) and sums of such, with commas between several"
    found = _expect(value, flag, lambda v: v != () and fits(v), wanted)
    return found if isinstance(found, tuple) else (found,)


def formula(value: Value, *, flag: str = "text") -> Formula:
    """A sum of weighted calls, as text or as it is; a call alone has the weight 1.

    Raises: BadInput: as `parse`, or another value.
    """
    found = _expect(value, flag, lambda v: isinstance(v, Summand), "NUMBER*NAME(...), and sums of such")
    return found if isinstance(found, Formula) else Formula((Weighted(1, found),))


def number(value: Value, *, flag: str = "text") -> float | int | Schedule | Set:
    """A number, or a schedule or set in its place, as text or as it is.

    Raises: BadInput: as `parse`, or another value.
    """
    wanted = f"a number, or {', '.join(f'{word}(...)' for word in KINDS)}"
    return _expect(value, flag, lambda v: is_number(v) or isinstance(v, Schedule | Set), wanted)


def _expect(value: Value, flag: str, fits: Callable[[Value], bool], wanted: str) -> Value:
    found = parse(value, flag=flag) if isinstance(value, str) else plain(value)
    if fits(found):
        return found
    problem = f"read {_shorten(repr(found))}; accepted: {wanted}"
    raise Place(flag, value, 0).error(problem) if isinstance(value, str) else BadInput(f"{flag}: {problem}")


def _tree(source: str, at: Callable[[int], Place]) -> ast.expr:
    """Python's reading of the text."""
    try:
        with warnings.catch_warnings():
            # Python warns of `1if`, which is read as `1 if`; here it is refused.
            warnings.simplefilter("error")
            tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        column = error.offset - 1 if error.offset else len(source)  # 0 is the end
        rest = source[column : column + 20]
        read = repr(rest) if rest else "the end"
        raise at(column).error(f"read {read}, {error.msg}; accepted: {ACCEPTED}") from None
    except (ValueError, Warning) as error:
        raise at(0).error(f"read {_shorten(source)!r}, {error}; accepted: {ACCEPTED}") from None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            raise at(token.start[1]).error(f"read '#', which begins a comment; accepted: {ACCEPTED}")
    return tree


class _Reader:
    """Values of a tree; `at` makes a place of a column."""

    def __init__(self, source: str, at: Callable[[int], Place]) -> None:
        self.source, self.at = source, at

    def read(self, node: ast.expr, depth: int) -> Value:
        """The value of a node that lies in so many calls and tuples."""
        if depth > _DEEPEST:
            raise RecursionError
        match node:
            case ast.Constant(value=bool() | str() | None):
                return node.value
            case ast.Constant(value=int() | float()):
                return self._finite(node, node.value)
            case ast.Tuple(elts=parts):
                return tuple(self.read(part, depth + 1) for part in parts)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return self._compute(node, op, operand, depth=depth)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self._compute(node, op, left, right, depth=depth)
            case ast.Name() | ast.Attribute():
                name = self._name(node)
                return self._build(node, lambda: Call(name, place=self._place(node)))
            case ast.Call():
                return self._call(node, depth)
        raise self._refuse(node, _REFUSED.get(type(node), "what the grammar does not have"), ACCEPTED)

    def _call(self, node: ast.Call, depth: int) -> Value:
        name = self._name(node.func)
        args = [self.read(arg, depth + 1) for arg in node.args]
        kwargs: dict[str, Value] = {}
        for part in node.keywords:
            if part.arg is None:
                raise self._refuse(part, "two stars", "NAME(argument, key=value)")
            if part.arg in kwargs:
                raise self._refuse(part, f"{part.arg} twice", "each keyword once")
            kwargs[part.arg] = self.read(part.value, depth + 1)
        if name in KINDS and (args or kwargs):
            signature = inspect.signature(KINDS[name])
            wanted = f"{name}({', '.join(signature.parameters)})"
            for part in node.keywords:
                if part.arg not in signature.parameters:
                    near = nearest(str(part.arg), signature.parameters)
                    raise self._refuse(part, f"no argument of {name}", f"{wanted}{near}")
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise self._refuse(node, str(error), wanted) from None
            return self._build(node, lambda: KINDS[name](*bound.args, **bound.kwargs))
        return self._build(node, lambda: Call(name, tuple(args), tuple(kwargs.items()), self._place(node)))

    def _name(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                return name
            case ast.Attribute(value=value, attr=name):
                return f"{self._name(value)}.{name}"
        raise self._refuse(node, "a call or a dot after what is no name", "NAME or NAME.NAME")

    def _compute(self, node: ast.expr, op: ast.operator | ast.unaryop, *parts: ast.expr, depth: int) -> Value:
        """What an operator makes of its operands: Python's own numbers, or an expression's product or sum."""
        operands = [self.read(part, depth) for part in parts]
        numbers = all(map(is_number, operands))
        takes, accepted = _OPERANDS.get(type(op), (Expression, "a number or a name after a minus"))
        if not numbers:
            for part, x in zip(parts, operands, strict=True):
                # In a sum with names a number is wrong.
                if not (isinstance(x, takes) or (is_number(x) and takes is not Summand)):
                    raise self._refuse(part, f"in {_shorten(self._text(node))!r}", accepted)
        elif isinstance(op, ast.Pow) and abs(operands[1]) > 64:
            raise self._refuse(parts[1], "an exponent", "exponents from -64 to 64")
        try:
            found = self._build(node, lambda: _OPERATORS[type(op)](*operands))
        except TypeError:
            raise self._refuse(parts[-1], f"in {_shorten(self._text(node))!r}", accepted) from None
        except ArithmeticError as error:
            raise self._refuse(parts[-1], str(error), "arithmetic that has a result") from None
        if numbers:
            return self._finite(node, found)
        if isinstance(found, Formula) and not isinstance(op, ast.Add | ast.Sub):
            weight = self._place(node).column
            return Formula(tuple(Weighted(factor, call.moved(weight=weight)) for factor, call in found.terms))
        return found

    def _finite(self, node: ast.expr, value: Value) -> Value:
        if not is_number(value) or not finite(value):
            raise self._refuse(node, "no finite number", "finite numbers")
        return value

    def _build(self, node: ast.expr, make: Callable[[], Value]) -> Value:
        try:
            return make()
        except BadInput as error:
            raise self._place(node).error(str(error)) from None

    def _place(self, node: ast.expr | ast.keyword) -> Place:
        # Python counts bytes.
        return self.at(len(self.source.encode()[: node.col_offset].decode()))

    def _refuse(self, node: ast.expr | ast.keyword, what: str, accepted: str) -> BadInput:
        return self._place(node).error(f"read {_shorten(self._text(node))!r}, {what}; accepted: {accepted}")

    def _text(self, node: ast.expr | ast.keyword) -> str:
        return ast.get_source_segment(self.source, node) or ""


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
