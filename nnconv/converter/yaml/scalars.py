"""Plain scalars as the core schema of YAML 1.2 reads them, and text written so that it reads back.

Only `true` and `false` are booleans (`no` is a word), `1e-8` is a number and `017` is seventeen;
what is quoted is text, whatever it says.
"""

from __future__ import annotations

import json
import math
import re

Plain = None | bool | int | float | str

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Plain] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
    | {
        sign + word: number
        for word in (".inf", ".Inf", ".INF")
        for sign, number in (("", math.inf), ("+", math.inf), ("-", -math.inf))
    }
)
LONGEST_NUMBER = 64
"""Characters; a longer row of digits is no number anyone means, and costs quadratic time."""

# Words that may stand without quotes in every place, flow collections included.
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./@+-]*(?: [A-Za-z0-9_/][A-Za-z0-9_./+-]*)*")
# What readers of YAML 1.1 take for something else than text.
_TREACHEROUS = frozenset(("yes", "no", "on", "off", "true", "false", "null"))


def resolve(text: str) -> Plain:
    """What a plain scalar means.

    >>> resolve("1e-8"), resolve("no"), resolve("0x10"), resolve("~")
    (1e-08, 'no', 16, None)
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    return float(text) if _FLOAT.fullmatch(text) else text


def quoted(text: str) -> str:
    """`text` as a scalar that reads back as this very text, in quotes only where it needs them.

    >>> quoted("conv 20 5x5"), quoted("no"), quoted("ip1:flatten")
    ('conv 20 5x5', '"no"', '"ip1:flatten"')
    """
    plain = _BARE.fullmatch(text) and text.lower() not in _TREACHEROUS
    return text if plain and isinstance(resolve(text), str) else json.dumps(text)


def number(value: float) -> str:
    """A float so that it reads back as this very float.

    >>> number(0.1), number(1e-8), number(2.0), number(float("inf"))
    ('0.1', '1e-08', '2.0', '.inf')
    """
    if math.isfinite(value):
        return repr(value)
    return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
