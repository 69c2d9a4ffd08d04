"""The strict reader: what each type accepts, and every mistake at once with its place."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import UsageError
from suite.strict_yaml import (
    Aliases,
    Limit,
    Rule,
    encode_plain,
    encode_yaml,
    list_keys,
    read_plain,
    read_yaml,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: Annotated[int, Limit("at least 1", lambda value: value >= 1)]
    rate: float
    flag: bool = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    kind: Annotated[Literal["small", "large"], Aliases({"S": "small"})] = "small"
    path: str | None = None
    limit: Annotated[float, Limit("more than 0", lambda value: value > 0)] | None = None
    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Fine:
    deep: bool = False
    share: Annotated[float, Limit("at most 1", lambda value: value <= 1)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Settled:
    size: int
    fine: Fine = Fine()


GOOD = "name: x\ninner:\n  count: 2\n  rate: 1e-4\n"
RULE = Rule(("inner.count", "numbers"), lambda c, n: len(n) < c, "{1} has {0} numbers or more")


def read(text: str, **overrides: str) -> Outer:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return read_yaml(text, Outer, source="f.yaml", overrides=dotted, rules=[RULE])


def mistakes(text: str, **overrides: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        read(text, **overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def inner(line: str) -> str:
    return "name: x\ninner:\n  count: 1\n  rate: 1\n" + line


def test_the_declared_type_decides_what_a_scalar_means() -> None:
    text = (
        "name: no\nkind: S\npath: '~'\nlimit: 3\nnumbers: [1, -2]\nnames: [1e3, yes]\n"
        "inner: {count: 7, rate: 1e-4, flag: true}\n"
    )
    assert read(text + "") == Outer(
        name="no",
        kind="small",
        path="~",
        limit=3.0,
        numbers=(1, -2),
        names=("1e3", "yes"),
        inner=Inner(count=7, rate=0.0001, flag=True),
    )
    assert type(read(text).limit) is float


@pytest.mark.parametrize("null", ["null", "~", ""])
def test_null_is_none_where_allowed(null: str) -> None:
    assert read(GOOD + f"path: {null}\nlimit: {null}").path is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("numbers: 3", "numbers: expected a list such as [a, b], got '3'"),
        ("numbers: [1, b]", "numbers[1]: expected an integer, got 'b'"),
        ("numbers: [1.0]", "numbers[0]: expected an integer, got '1.0'"),
        ("numbers: [010]", "numbers[0]: expected an integer, got '010'"),
        ("numbers: [1_000]", "numbers[0]: expected an integer, got '1_000'"),
        ("numbers: ['1']", "numbers[0]: expected an integer, got the text '1'"),
        ("numbers: [٣]", r"numbers[0]: expected an integer, got '\u0663'"),
        ("numbers: [1234567890123456789]", "numbers[0]: expected an integer, got '12345678"),
        ("limit: -1", "limit: expected more than 0, got '-1'"),
        ("limit: .nan", "limit: expected a finite number, got '.nan'"),
        ("limit: nan", "limit: expected a finite number, got 'nan'"),
        ("limit: .inf", "limit: expected a finite number, got '.inf'"),
        ("limit: 1e999", "limit: expected a finite number, got '1e999'"),
        ("limit: 1,5", "limit: expected a finite number, got '1,5'"),
        ("limit: [1]", "limit: expected a number, got a list"),
        ("path: {a: b}", "path: expected text, got a section"),
        (r'path: "a\0b"', r"path: expected text without control characters, got the text 'a\x00b'"),
        (r'path: "\e[2J"', "path: expected text without control characters, got the text"),
        ("names: [null]", "names[0]: expected text, got null"),
        ("kind: smal", "kind: expected one of small, large, got 'smal' (did you mean 'small'?)"),
        ("nmubers: [1]", "nmubers: unknown key (did you mean 'numbers'?)"),
        ("rate: 3", "rate: unknown key (did you mean 'inner.rate'?)"),
        ("zzzzz: 3", "zzzzz: unknown key"),
        ("<<: {a: 1}", "<<: unknown key"),
        ("name: y", "name: given twice, first in line 1"),
        ("? [a, b]\n: 1", "a list: unknown key"),
        ("numbers: [1, 2, 3]", "(1, 2, 3) has 1 numbers or more"),
        ('"\\e[31m": 1', r"'\x1b[31m': unknown key"),
    ],
)
def test_one_wrong_line_is_named_with_its_line_and_key(line: str, message: str) -> None:
    found = mistakes(inner(line))
    assert len(found) == 1
    assert found[0].startswith("f.yaml:")
    assert message in found[0]
    assert found[0].isprintable()


@pytest.mark.parametrize("text", ["yes", "True", "1", "'true'", "on", "null"])
def test_only_true_and_false_are_booleans(text: str) -> None:
    (found,) = mistakes(inner(f"  flag: {text}"))
    assert found.startswith("f.yaml:5: inner.flag: expected true or false, got ")


def test_all_mistakes_are_reported_at_once_in_order_of_lines() -> None:
    text = "name:\ninner:\n  count: ten\n  raet: 1\n  count: 0\nkind: huge\nlimit: 0\n"
    assert mistakes(text, numbers="[x]", inner__flg="true") == [
        "f.yaml:1: name: expected text, got nothing",
        "f.yaml:2: inner.rate: missing",
        "f.yaml:3: inner.count: expected an integer, got 'ten'",
        "f.yaml:4: inner.raet: unknown key (did you mean 'rate'?)",
        "f.yaml:5: inner.count: given twice, first in line 3",
        "f.yaml:6: kind: expected one of small, large, got 'huge'",
        "f.yaml:7: limit: expected more than 0, got '0'",
        "--set inner.flg: unknown key (did you mean 'inner.flag'?)",
        "--set numbers[0]: expected an integer, got 'x'",
    ]


def test_a_missing_section_and_a_section_that_is_none() -> None:
    assert mistakes("name: x") == ["f.yaml:1: inner: missing"]
    expected = "f.yaml:2: inner: expected the keys count, rate, flag, got nothing"
    assert mistakes("name: x\ninner:\n") == [expected]
    assert "expected the keys name, inner" in mistakes("- a\n- b")[0]
    assert "expected the keys name, inner" in mistakes("just words")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml:1: empty"),
        ("# only a comment\n", "f.yaml:1: empty"),
        (GOOD + "path: [a\n", "f.yaml:6: not valid YAML: "),
        (GOOD + "\tpath: a\n", "f.yaml:5: not valid YAML: "),
        (GOOD + "path: a\0b\n", r"f.yaml:5: not valid YAML: the character '\x00' is not allowed"),
        (GOOD + "---\nname: y\n", "f.yaml:5: not valid YAML: expected a single document"),
        (GOOD + "path: *gone\n", "anchors and aliases (& and *) are not allowed"),
        (GOOD + "path: &here a\n", "f.yaml:5: anchors and aliases (& and *) are not allowed"),
        (GOOD + "path: !!str a\n", "f.yaml:5: tags are not allowed, got 'tag:yaml.org,2002:str'"),
        (GOOD + "path: !!python/object/apply:os.abort []\n", "f.yaml:5: tags are not allowed"),
        (GOOD + "path: ! a\n", "f.yaml:5: tags are not allowed, got '!'"),
        (GOOD + "numbers: " + "[" * 100_000, "f.yaml:5: nested deeper than 20 levels"),
        (GOOD + "numbers: " + "{a: " * 100_000, "f.yaml:5: nested deeper than 20 levels"),
        ("- " * 100_000, "f.yaml:1: nested deeper than 20 levels"),
        (GOOD + "".join(f"k{i}: 1\n" for i in range(90_000)), ": more than 10,000 keys and values"),
        (GOOD + "kind: huge\n" * 4_000, "f.yaml:55: kind: too many mistakes to go on"),
        (GOOD + "numbers: [" + "&a x," * 4_000 + "]", "f.yaml:5: too many mistakes to go on"),
        ("x" * (2**20 + 1), "f.yaml:1: longer than 1,048,576 characters"),
    ],
)
def test_what_is_no_plain_document_is_refused(text: str, message: str) -> None:
    started = time.monotonic()
    assert any(message in found for found in mistakes(text))
    assert time.monotonic() - started < 5


def test_a_bomb_of_aliases_stays_small() -> None:
    lines = ["a: &a [x]"] + [
        f"{k}: &{k} [*{j},*{j},*{j}]" for j, k in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    started = time.monotonic()
    assert any("anchors" in found for found in mistakes("\n".join(lines) + "\nnumbers: *i\n"))
    assert time.monotonic() - started < 2


def test_line_numbers_survive_windows_line_ends_and_a_byte_order_mark() -> None:
    text = "\ufeff" + GOOD.replace("\n", "\r\n") + "kind: huge\r\n"
    assert mistakes(text) == ["f.yaml:5: kind: expected one of small, large, got 'huge'"]


def test_overrides_replace_values_through_the_same_types() -> None:
    changed = read(GOOD, inner__rate="3", numbers="[4]", limit="null", path=r"C:\a: b", kind="S")
    assert changed == Outer(
        name="x", inner=Inner(count=2, rate=3.0), numbers=(4,), path=r"C:\a: b", kind="small"
    )
    assert read("name: x\ninner: {count: ten, rate: 1}", inner__count="3").inner.count == 3
    assert read("name: x\ninner: {rate: 1}", inner__count="3").inner.count == 3


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("inner__count", "ten", "--set inner.count: expected an integer, got 'ten'"),
        ("inner__count", "0", "--set inner.count: expected at least 1, got '0'"),
        ("inner__count", "", "--set inner.count: expected an integer, got nothing"),
        ("inner", "{count: 1}", "--set inner: a section; set one of its keys, such as inner.count"),
        ("cuont", "1", "--set cuont: unknown key"),
        ("count", "1", "--set count: unknown key (did you mean 'inner.count'?)"),
        ("numbers", "[1", "--set numbers: not valid YAML: "),
        ("numbers", "", "--set numbers: empty"),
        ("numbers", "[" * 30, "--set numbers: nested deeper than 20 levels"),
        ("numbers", "&a [1]", "--set numbers: anchors and aliases"),
        ("numbers", "[1, 2]", "--set numbers: (1, 2) has 2 numbers or more"),
        ("inner__count", "-1" * 500, "--set inner.count: expected an integer, got '-1-1"),
    ],
)
def test_a_wrong_override_is_named_by_its_flag(key: str, text: str, message: str) -> None:
    (found,) = mistakes(GOOD, **{key: text})
    assert message in found
    assert len(found) < 250


# A section that has a default


SETTLED = (
    Rule(("size", "fine.deep"), lambda size, deep: size < 5 or deep, "size {0} needs deep"),
    Rule(("size", "fine"), lambda size, fine: size != 4 or fine == Fine(), "4 is nothing fine"),
)


def read_settled(text: str, **overrides: str) -> Settled:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return read_yaml(text, Settled, source="f.yaml", overrides=dotted, rules=SETTLED)


def settled_mistakes(text: str, **overrides: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        read_settled(text, **overrides)
    return str(caught.value).splitlines()


def test_a_section_left_out_has_its_defaults_and_takes_overrides() -> None:
    assert read_settled("size: 1") == Settled(size=1, fine=Fine())
    assert read_settled("size: 1\nfine: {share: 1}") == Settled(size=1, fine=Fine(share=1.0))
    assert read_settled("size: 1", fine__deep="true") == Settled(size=1, fine=Fine(deep=True))
    assert read_settled("size: 1\nfine:\n  share: 0.1", fine__deep="true").fine == Fine(
        deep=True, share=0.1
    )


def test_its_overrides_are_checked_as_all_others() -> None:
    (found,) = settled_mistakes("size: 1", fine__share="2")
    assert found == "--set fine.share: expected at most 1, got '2'"
    (found,) = settled_mistakes("size: 1", fine__shaer="0.1")
    assert found == "--set fine.shaer: unknown key (did you mean 'fine.share'?)"
    (found,) = settled_mistakes("size: 1", fine="{}")
    assert found == "--set fine: a section; set one of its keys, such as fine.deep"


def test_its_fields_and_itself_take_part_in_rules() -> None:
    assert settled_mistakes("size: 7") == ["f.yaml:1: size: size 7 needs deep"]
    assert read_settled("size: 7", fine__deep="true").size == 7
    (found,) = settled_mistakes("size: 4", fine__share="0.1")
    assert found.endswith("4 is nothing fine")
    assert read_settled("size: 4").fine == Fine()


def test_a_rule_on_a_section_is_not_asked_for_what_is_wrong_elsewhere() -> None:
    # A mistake that comes before the section leaves the section what it is.
    (found,) = settled_mistakes("siez: 3\nsize: 4\nfine: {share: 0.5}")
    assert found == "f.yaml:1: siez: unknown key (did you mean 'size'?)"
    (found,) = settled_mistakes("size: 4\nfine: {share: 2}")
    assert found == "f.yaml:2: fine.share: expected at most 1, got '2'"


def test_keys_are_listed_without_sections() -> None:
    assert list_keys(Outer)[:4] == ["name", "inner.count", "inner.rate", "inner.flag"]


def test_a_dictionary_goes_through_the_same_checks_without_line_numbers() -> None:
    plain = {"name": "x", "inner": {"count": 0, "rate": "fast"}, "nubmers": [1]}
    with pytest.raises(UsageError) as caught:
        read_plain(plain, Outer, source="a.pt")
    assert sorted(str(caught.value).splitlines()) == [
        "a.pt: inner.count: expected at least 1, got '0'",
        "a.pt: inner.rate: expected a finite number, got 'fast'",
        "a.pt: nubmers: unknown key (did you mean 'numbers'?)",
    ]


def test_hostile_dictionaries_are_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    circular: dict[str, Any] = {"name": "x"}
    circular["inner"] = circular
    for plain in ({"name": object()}, {"name": deep}, circular, [1], "text", None):
        with pytest.raises(UsageError, match=r"^a\.pt: "):
            read_plain(plain, Outer, source="a.pt")


finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
integers = st.integers(-(10**18) + 1, 10**18 - 1)
outers = st.builds(
    Outer,
    name=words,
    inner=st.builds(Inner, count=st.integers(1, 10**18 - 1), rate=finite, flag=st.booleans()),
    kind=st.sampled_from(["small", "large"]),
    path=st.none() | words,
    limit=st.none() | finite.filter(lambda value: value > 0),
    numbers=st.lists(integers, max_size=4).map(tuple),
    names=st.none() | st.lists(words, max_size=3).map(tuple),
)


@given(outers)
def test_what_is_written_reads_back_equal(outer: Outer) -> None:
    assert read_yaml(encode_yaml(outer), Outer, source="f") == outer
    assert read_plain(encode_plain(outer), Outer, source="f") == outer


@given(st.text() | st.text(st.sampled_from("abn:-[]{}#&*!|>'\"%@`,?\n \t0")))
def test_any_text_gives_a_dataclass_or_a_message(text: str) -> None:
    try:
        read(text)
    except UsageError as error:
        assert all(re.match(r"f\.yaml:\d+: ", line) for line in str(error).split("\n"))


@given(words)
def test_an_override_of_text_arrives_as_typed(text: str) -> None:
    null = text in ("", "~", "null", "Null", "NULL")
    assert read(GOOD, path=text).path == (None if null else text)


def test_reading_recipes_does_not_import_torch() -> None:
    modules = "suite.strict_yaml, suite.recipe, suite.schedule, suite.shipped, suite.recipe_verbs"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
