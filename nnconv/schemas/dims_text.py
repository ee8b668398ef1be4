"""Dimensions from text: the inverse of `str(dim)`, for files and for what users type.

sum     = ["-"] product (("+" | "-") product)*
product = factor (("*" | "//") factor)*
factor  = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"
"""

from __future__ import annotations

import re
from functools import lru_cache

from nnconv.schemas.dims import MOST_NESTING, Dim, Symbolic, call, is_function
from nnconv.schemas.errors import InputError

LONGEST = 10_000
_TOKEN = re.compile(r"\s*(?:(\d+)|(\w+)|(//|[-+*(),]))")


@lru_cache(1024)  # a net writes few formulas many times
def parse(text: str) -> Dim:
    """The dimension that `text` writes; raises InputError for anything else.

    >>> parse("2*H//4 + 1")
    H//2 + 1
    """
    if len(text) > LONGEST:
        raise InputError(f"the formula for a size is longer than {LONGEST} characters")
    reader = _Reader(text, _tokens(text))
    dim = reader.sum(0)
    if reader.ahead:
        raise reader.error()
    return dim


def _tokens(text: str) -> list[str]:
    found, position, text = [], 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InputError(f"'{text}' is no size: cannot read '{text[position:]}'")
        found.append(match.group().strip())
        position = match.end()
    return found


class _Reader:
    def __init__(self, text: str, tokens: list[str]) -> None:
        self.text = text
        self.tokens = tokens[::-1]

    @property
    def ahead(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def error(self) -> InputError:
        return InputError(f"'{self.text}' is no size: unexpected '{self.ahead or 'end'}'")

    def take(self, *wanted: str) -> str:
        if self.ahead in wanted:
            return self.tokens.pop()
        return ""

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise self.error()

    def sum(self, depth: int) -> Dim:
        negative = self.take("-")
        total = self.product(depth)
        total = -total if negative else total
        while sign := self.take("+", "-"):
            term = self.product(depth)
            total = total + term if sign == "+" else total - term
        return total

    def product(self, depth: int) -> Dim:
        result = self.factor(depth)
        while sign := self.take("*", "//"):
            other = self.factor(depth)
            if sign == "//" and other == 0:
                raise InputError(f"'{self.text}' is no size: division by 0")
            result = result * other if sign == "*" else result // other
        return result

    def factor(self, depth: int) -> Dim:
        if depth > 2 * MOST_NESTING:
            raise InputError("the formula for a size is nested too deeply")
        if self.take("("):
            inner = self.sum(depth + 1)
            self.expect(")")
            return inner
        token = self.ahead
        if token.isdecimal():
            self.tokens.pop()
            return int(token)
        if not token.isidentifier():
            raise self.error()
        self.tokens.pop()
        return self.function(token, depth) if is_function(token) else Symbolic.name(token)

    def function(self, name: str, depth: int) -> Dim:
        self.expect("(")
        arguments = [self.sum(depth + 1)]
        while self.take(","):
            arguments.append(self.sum(depth + 1))
        self.expect(")")
        divisor = arguments[-1]
        if len(arguments) != 2 or (
            name == "truncdiv" and (not isinstance(divisor, int) or divisor < 1)
        ):
            raise InputError(f"'{self.text}' is no size: bad arguments for {name}")
        return call(name, *arguments)
