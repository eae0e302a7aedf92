"""The YAML reader: values, lines, and everything it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from holmes.errors import ConfigError
from holmes.hardware.yaml_reader import MAX_BYTES, dotted, parse_yaml, read_yaml, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E+2", -250.0),
        (".5", 0.5),
        ("7", 7),
        ("0x10", 16),
        ("0o17", 15),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2001-99-99", "2001-99-99"),
        ("true", True),
        ("", None),
        ("~", None),
        ("-.inf", -math.inf),
        ("1_000", "1_000"),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_nan_is_read_as_nan() -> None:
    assert math.isnan(scalar(".nan"))


def test_quoted_text_stays_text() -> None:
    document = parse_yaml(b"a: '1'\nb: \"true\"\nc: |\n  5\n", "f")
    assert document.data == {"a": "1", "b": "true", "c": "5\n"}


def test_lines_of_keys_and_items() -> None:
    document = parse_yaml(
        b"a: 1\nlist:\n  - name: x\n    rate: 2\n  - {name: y, rate: 3}\n", "f.yaml"
    )
    assert document.lines[("list", 0, "rate")] == 4
    assert document.lines[("list", 1)] == 5
    assert document.where(("list", 0, "rate")) == "f.yaml:4: list.x.rate"
    assert document.where(("list", 0, "missing", "deeper")).startswith("f.yaml:3: list.x.missing")
    assert document.where() == "f.yaml"


def test_items_go_by_name_kind_or_ends() -> None:
    data = {"l": [{"between": ["a", "b"], "kind": "e"}, {"kind": "roce"}, {"x": 1}]}
    assert [dotted(("l", i, "k"), data) for i in range(3)] == ["l.a-b.k", "l.roce.k", "l.2.k"]


def test_byte_order_mark_is_passed_over() -> None:
    assert parse_yaml(b"\xef\xbb\xbfa: 1\n", "f").data == {"a": 1}


def test_aliases_are_copies() -> None:
    document = parse_yaml(b"a: &x {n: [1]}\nb: *x\n", "f")
    document.data["a"]["n"].append(2)
    assert document.data["b"] == {"n": [1]}


def bomb(levels: int = 30) -> bytes:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("raw", "line", "said"),
    [
        (b"a: 1\na: 2\n", 2, "`a` twice"),
        (b"a: {b: 1,\n b: 2}\n", 2, "`b` twice"),
        (b"a:\n\tb: 1\n", 2, "tab"),
        (b"a: 1\nb: \0\n", 2, "binary"),
        (b"a: 1\n\xff\xfe: 3\n", 2, "UTF-8"),
        (b"a: [1\nb: 2\n", 2, "not valid YAML"),
        (b"a: 1\n---\nb: 2\n", 2, "second YAML document"),
        (b"a: !!python/object:os.system x\n", 1, "tag"),
        (b"a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge key"),
        (b"? [1, 2]\n: 3\n", 1, "key that is not a plain word"),
        (b"a: *nowhere\n", 1, "alias"),
        (b"a: &x [1, *x]\n", 1, "alias"),
        (b"a: " + b"[" * 100_000, 1, "levels deep"),
        (bomb(), None, "expand"),
        (b"a: [" + b"1," * 50_000 + b"1]", 1, "20000 values"),
        (b"#" * (MAX_BYTES + 1), None, "larger"),
        (b"a: \x01\n", None, "not valid YAML"),
    ],
)
def test_refusals_name_the_line(raw: bytes, line: int | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(raw, "f.yaml")
    assert said in caught.value.what
    assert caught.value.exit_code == 78
    assert caught.value.why or caught.value.next_step
    place = caught.value.where
    assert place is not None
    assert place == f"f.yaml:{line}" if line else place.startswith("f.yaml")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, Path("a\0b")):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            read_yaml(path)
        assert caught.value.where == str(path)
