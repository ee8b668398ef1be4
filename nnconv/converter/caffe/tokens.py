"""The tokens of protobuf text as Caffe's parser (C++ protobuf 3.21) sees them, refusals included.

The source is held as Latin-1 text, one character a byte, so that offsets are file offsets and files
in any encoding can be read. Two views of the same language: `FIELD` matches a whole ordinary field
(`name: 5`, `name {`, `}`) at once and is what makes reading fast; `token` takes the language apart
token by token and is the definition. Whatever `FIELD` does not match, `token` decides.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SPACE = r"[ \t\n\r\v\f]*+"
SKIP = rf"{SPACE}(?:#[^\n\0]*+\n{SPACE})*+"
WORD = r"[A-Za-z_][A-Za-z0-9_]*+"
_PLAIN = r"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]*+)?+(?:[eE][+-]?+[0-9]++)?+(?![A-Za-z0-9_.])"
# A literal that another one, or a comment before another one, may follow is left to `token`.
_LITERAL = rf"""(?:"([^"\\\n\0]*+)"|'([^'\\\n\0]*+)')(?!{SPACE}["'#])"""

# Groups: 1 name; 2 number, 3 word, 4 and 5 string: a scalar field with its separator;
# 6 opening delimiter of a message field; 7 closing delimiter (then there is no name).
FIELD = re.compile(
    rf"{SKIP}(?:({WORD}){SPACE}"
    rf"(?::{SPACE}(?:({_PLAIN})|({WORD})|{_LITERAL}){SKIP}[;,]?+|:?+{SPACE}([{{<]))|([}}>]))"
)
# A number in a list, and what follows it.
ITEM = re.compile(rf"{SKIP}({_PLAIN}){SKIP}([,\]])")
_ITEMS = re.compile(rf"(?:{SKIP}{_PLAIN}{SKIP},)*+")
SEPARATOR = re.compile(rf"{SKIP}[;,]?+")
NUMBER, NAME_WORD, STRING_2, STRING_1, OPEN, CLOSE = range(2, 8)
CLOSER = {"{": "}", "<": ">"}

_skip = re.compile(SKIP).match
_last_comment = re.compile(r"#[^\n\0]*+\Z").match
_word = re.compile(WORD).match
_number_start = re.compile(r"\.?[0-9]").match
_hexadecimal = re.compile(r"0[xX]([0-9a-fA-F]*+)").match
_octal = re.compile(r"0[0-9]++").match
_decimal = re.compile(
    r"(?:[0-9]++(?:(\.)[0-9]*+)?+|(\.)[0-9]++)(?:([eE])[+-]?+([0-9]*+))?+([fF])?+"
).match
_string = re.compile(r""""(?:[^"\\\n\0]|\\[^\n\0])*+"|'(?:[^'\\\n\0]|\\[^\n\0])*+'""").match
_string_body = re.compile(r"(?:[^\\\n\0]|\\[^\n\0])*+").match
_escape = re.compile(
    r"\\(?:([abfnrtv\\?'\"])|([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})"
    r"|u([0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*)|U(00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|)"
)
_SIMPLE = dict(zip("abfnrtv\\?'\"", "\a\b\f\n\r\t\v\\?'\"", strict=True))


class TextError(Exception):
    """What is wrong with the text, and at which offset."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


class Token(NamedTuple):
    """`kind` is word, integer, float, string, symbol, or end; `text` is as written."""

    kind: str
    text: str
    start: int
    end: int

    def __str__(self) -> str:
        return shortened(self.text) or "the end of the file"


def shortened(text: str) -> str:
    """A piece of the source, fit to stand in a message."""
    shown = text if len(text) <= 40 else text[:37] + "..."
    return shown.encode("latin-1", "replace").decode("utf-8", "replace")


def token(text: str, position: int) -> Token:
    """The token at or after `position`; TextError where Caffe's tokenizer stops."""
    start = _skip(text, position).end()  # type: ignore[union-attr]
    if start == len(text) or _last_comment(text, start):
        return Token("end", "", len(text), len(text))
    if match := _word(text, start):
        return Token("word", match[0], start, match.end())
    if _number_start(text, start):
        return _number(text, start)
    character = text[start]
    if character in "\"'":
        return _quoted(text, start)
    if character == "#" or character < " ":
        raise TextError("a control character stands in the text: is this a text file?", start)
    if character > "\x7f":
        raise TextError("only strings and comments may hold non-ASCII characters", start)
    return Token("symbol", character, start, start + 1)


def _number(text: str, start: int) -> Token:
    kind = "integer"
    if match := _hexadecimal(text, start):
        if not match[1]:
            raise TextError('"0x" must be followed by hexadecimal digits', match.end())
    elif match := _octal(text, start):
        if match[0].strip("01234567"):
            raise TextError("a number with a leading zero must be octal", start)
    else:
        match = _decimal(text, start)
        assert match is not None, "_number_start saw a digit"
        if match[3] and not match[4]:
            raise TextError(f'"{match[3]}" must be followed by an exponent', match.end())
        if match[1] or match[2] or match[3] or match[5]:
            kind = "float"
    end = match.end()
    if _word(text, end):
        raise TextError("a blank is needed between a number and a word", end)
    if text.startswith(".", end):
        raise TextError("a number has one decimal point, before its exponent", end)
    return Token(kind, match[0], start, end)


def _quoted(text: str, start: int) -> Token:
    if match := _string(text, start):
        return Token("string", match[0], start, match.end())
    quote = text[start]
    # Only the text up to the line's end is looked at, so that hostile quotes cost linear time.
    line = text[start + 1 : _line_end(text, start + 1)]
    end = start + 1 + _string_body(line).end()  # type: ignore[union-attr]
    if end < len(text) and text[end] == "\n":
        raise TextError("a string may not cross the end of a line", start)
    raise TextError(f"the string that starts with {quote} here has no end", start)


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def unquote(literal: str, offset: int) -> bytes:
    """The bytes a string literal (with its quotes) stands for; TextError on a bad escape."""
    body = literal[1:-1]
    if "\\" not in body:
        return body.encode("latin-1")

    def replace(match: re.Match[str]) -> str:
        simple, octal, hexadecimal, units, code = match.groups()
        if simple:
            return _SIMPLE[simple]
        if octal:
            return chr(int(octal, 8) & 0xFF)
        if hexadecimal:
            return chr(int(hexadecimal, 16))
        if units:
            wide = bytes.fromhex(units.replace("\\u", "")).decode("utf-16-be", "surrogatepass")
            return wide.encode("utf-8", "surrogatepass").decode("latin-1")
        if code:
            return chr(int(code, 16)).encode("utf-8", "surrogatepass").decode("latin-1")
        raise TextError("invalid escape sequence in a string", offset + 1 + match.start())

    return _escape.sub(replace, body).encode("latin-1")


def skip_value(text: str, position: int, depth_limit: int) -> int:
    """The offset behind the value of a field of unknown meaning; `position` is behind its name.

    Any well-formed value will do: scalars, messages, lists, nested at most `depth_limit` deep.
    """
    first = token(text, position)
    if first.text == ":":
        position = first.end
        first = token(text, position)
    elif first.text not in CLOSER:
        raise TextError(f'expected ":", found {first}', first.start)
    if first.text in CLOSER:
        return _skip_nested(text, first, depth_limit)
    if first.text == "[":
        return _skip_nested(text, first, depth_limit)
    return _skip_scalar(text, first)


def _skip_scalar(text: str, first: Token) -> int:
    if first.text == "-":
        first = token(text, first.end)
        if first.kind == "string":
            raise TextError(f"expected a number, found {first}", first.start)
    if first.kind not in ("word", "integer", "float", "string"):
        raise TextError(f"expected a value, found {first}", first.start)
    end = first.end
    if first.kind == "string":
        while (following := token(text, end)).kind == "string":
            end = following.end
    return end


def _skip_nested(text: str, first: Token, depth_limit: int) -> int:
    """Skips a message or list. `expected` holds the closers still to come, innermost last."""
    expected = [CLOSER.get(first.text, "]")]
    position = first.end
    while expected:
        if len(expected) > depth_limit:
            raise TextError(f"nested more than {depth_limit} levels deep", position)
        if expected[-1] == "]":
            position = _skip_element(text, position, expected)
        else:
            position = _skip_field(text, position, expected)
    return position


def _skip_field(text: str, position: int, expected: list[str]) -> int:
    if match := FIELD.match(text, position):
        if match.lastindex == CLOSE:
            if match[CLOSE] != expected.pop():
                raise TextError(f"mismatched {match[CLOSE]}", match.start(CLOSE))
            return _behind(text, match.end(), expected)
        if match.lastindex == OPEN:
            expected.append(CLOSER[match[OPEN]])
        return match.end()
    name = token(text, position)
    if name.text == "[":
        name = _extension(text, name)
    elif name.kind != "word":
        raise TextError(f"expected a field name, found {name}", name.start)
    following = token(text, name.end)
    if following.text == ":":
        following = token(text, following.end)
    elif following.text not in CLOSER:
        raise TextError(f'expected ":", found {following}', following.start)
    if following.text in CLOSER or following.text == "[":
        expected.append(CLOSER.get(following.text, "]"))
        return following.end
    return SEPARATOR.match(text, _skip_scalar(text, following)).end()  # type: ignore[union-attr]


def _skip_element(text: str, position: int, expected: list[str]) -> int:
    """One element of a list with what follows it, or the bracket that closes an empty list."""
    position = _ITEMS.match(text, position).end()  # type: ignore[union-attr]
    first = token(text, position)
    if first.text == "]":
        expected.pop()
        return _behind(text, first.end, expected)
    if first.text in CLOSER:
        expected.append(CLOSER[first.text])
        return first.end
    return _behind(text, _skip_scalar(text, first), expected)


def _behind(text: str, position: int, expected: list[str]) -> int:
    """What may stand behind a finished value: a separator in a message, `,` or `]` in a list."""
    while expected and expected[-1] == "]":
        following = token(text, position)
        if following.text == ",":
            return following.end
        if following.text != "]":
            raise TextError(f'expected "," or "]", found {following}', following.start)
        expected.pop()
        position = following.end
    if not expected:
        return position
    return SEPARATOR.match(text, position).end()  # type: ignore[union-attr]


def _extension(text: str, bracket: Token) -> Token:
    """The name of an extension, `[package.name]`, as one word token that spans the brackets."""
    end = text.find("]", bracket.end, bracket.end + 1000)
    if end < 0 or not re.fullmatch(rf"\s*{WORD}(?:[./]\s*{WORD})*\s*", text[bracket.end : end]):
        raise TextError("expected the name of an extension in [ ]", bracket.start)
    return Token("word", text[bracket.start : end + 1], bracket.start, end + 1)
