"""JSON and TOML of strangers: parsed and checked, or one reason that says what is wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.entries import Entries, parse_json, parse_toml


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_every_encoding_that_it_may_have(encoding):
    assert parse_json('{"name": "Käfer"}'.encode(encoding)) == {"name": "Käfer"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"{", "it is not JSON (Expecting property name"),
        (b"\x80abc", "it is not text in UTF-8"),
        (b"\xff\xfe\x00", "it is not text in UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "nested too deeply"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "5000 digits"),
        ("[1]", "expected an object {...}, got [1]"),
        ("null", "expected an object {...}, got null"),
        ('"x"', "expected an object {...}, got 'x'"),
    ],
)
def test_text_that_is_no_json_object_gets_a_reason(content, reason):
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        parse_json(content)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "1" * 400])
def test_a_number_that_is_not_finite_or_has_no_end_is_refused_where_it_is_read(number):
    with pytest.raises(ValueError, match=r"^expected a number for a, got "):
        Entries(parse_json(f'{{"a": {number}}}')).number("a")


def test_a_toml_nested_too_deeply_gets_a_reason():
    for text in ("a = " + "[" * 5000 + "]" * 5000, "a = " + "[" * 150 + "]" * 150):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_toml(text)
    assert parse_toml("a = [[1]]") == {"a": [[1]]}


READERS: dict[str, tuple[Callable[[Entries], object], list[object], list[object]]] = {
    "text": (lambda e: e.text("k"), ["", "a"], [None, 1, [], {}]),
    "texts": (lambda e: e.texts("k"), [[], ["a"]], [None, "a", [1], {"a": 1}]),
    "choice": (lambda e: e.choice("k", ("a", "b")), ["a", "b"], [None, "c", ["a"], {}, 1]),
    "flag": (lambda e: e.flag("k"), [True, False], [None, 0, 1, "true"]),
    "whole": (lambda e: e.whole("k", 1), [1, 10**6], [None, True, 0, -1, 1.0, "1", 10**30]),
    "wholes": (lambda e: e.wholes("k"), [[], [0, 3]], [None, 3, [True], [-1], [0.5], "12"]),
    "number": (lambda e: e.number("k"), [0, -1.5, 10**6], [None, True, "1", 10**400, float("inf"), float("nan")]),
    "numbers": (lambda e: e.numbers("k", (1, 3)), [[0], [1, 2.5, 3]], [None, 0, [], [1, 2], ["1"], [float("inf")]]),
    "size": (lambda e: e.size("k"), [1, 224, [3, 5]], [None, 0, -5, True, 1.5, [], [1], [1, 2, 3], [5, -28], 10**9]),
    "object": (lambda e: e.object("k"), [{}, {"a": 1}], [None, [], "a", 1]),
}


@pytest.mark.parametrize("kind", READERS)
def test_an_entry_is_returned_if_it_has_the_type_and_refused_if_not(kind):
    read, good, bad = READERS[kind]
    for value in good:
        read(Entries({"k": value}))
    for value in bad:
        with pytest.raises(ValueError, match=r"^expected .* for k, got "):
            read(Entries({"k": value}))
    with pytest.raises(KeyError, match=r"^'k'$"):
        read(Entries({}))


def test_a_size_of_one_number_is_square():
    assert Entries({"k": 5}).size("k") == (5, 5)
    assert Entries({"k": [3, 5]}).size("k") == (3, 5)


def test_a_value_in_a_reason_is_shortened():
    deep: list[object] = []
    for _ in range(90):
        deep = [deep] * 3
    with pytest.raises(ValueError, match="expected a text for k, got") as raised:
        Entries({"k": deep}).text("k")
    assert len(str(raised.value)) < 300


def test_json_and_toml_are_parsed_in_one_place():
    package = Path(__file__).parent.parent / "inspector"
    places = [path for path in package.rglob("*.py") if re.search(r"\b(json|tomllib)\.loads?\(", path.read_text())]
    assert [path.name for path in places] == ["entries.py"]
