from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holmes.errors import ConfigError
from holmes.launch.slurm import expand_hosts


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("login", ["login"]),
        ("n[01-03,7]", ["n01", "n02", "n03", "n7"]),
        ("a1,b[9-11],c", ["a1", "b9", "b10", "b11", "c"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("n[001].lan", ["n001.lan"]),
    ],
)
def test_expand(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize(
    "text",
    [
        *("", "n[1-", "n1]", "n[[1]]", "n[]", "n[a-b]", "n[3-1]", "a,,b"),
        *("n[1-999999999]", "n[1-9999]m[1-9999]"),
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand_hosts(text)
    assert caught.value.where == "SLURM_STEP_NODELIST"


@given(st.text(alphabet="n0159[],-", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        hosts = expand_hosts(text)
    except ConfigError:
        return
    assert hosts and all(hosts) and not any("[" in host for host in hosts)
