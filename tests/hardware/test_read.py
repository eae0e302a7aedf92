"""Sites: the catalogue's own, and what a bad one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from holmes.errors import ConfigError
from holmes.hardware.read import catalogue_sites, read_site, site_schema
from holmes.hardware.site import Fabric
from holmes.hardware.topology import Topology

SITE = """\
name: two
clusters:
  - name: ib
    nodes: 2
    device: {kind: a100-80g-sxm, count: 8}
    nics: [{kind: infiniband, gbit_s: 200, count: 4}, {kind: ethernet, gbit_s: 25}]
  - name: roce
    nodes:
      - {count: 1, device: {kind: v100-32g-sxm2}, nics: [{kind: roce, gbit_s: 100}]}
      - {device: {kind: cpu-core}, nics: [{kind: roce, gbit_s: 100}, {kind: ethernet, gbit_s: 1}]}
links:
  - {between: [ib, roce], kind: ethernet, gbit_s: 25}
"""


def refusal(tmp_path: Path, old: str = "", new: str = "", text: str = SITE) -> ConfigError:
    assert old in text
    path = tmp_path / "s.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        read_site(path)
    assert caught.value.exit_code == 78
    assert caught.value.where is not None
    assert "s.yaml" in caught.value.where
    return caught.value


def test_a_site_file_becomes_a_site(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SITE)
    topology = Topology(read_site(path))
    assert [node.name for node in topology.nodes] == ["ib-0", "ib-1", "roce-0", "roce-1"]
    assert len(topology.devices) == 18
    assert topology.site.links[0].latency_us == 50.0


@pytest.mark.parametrize("name", catalogue_sites())
def test_catalogue_sites_are_good(name: str) -> None:
    site = read_site(name)
    assert site.name == name
    assert len(Topology(site).devices) >= 1


def test_the_two_hybrids_have_the_shape_their_experiments_need() -> None:
    for name, per_node in (("demo", 1), ("paper", 8)):
        topology = Topology(read_site(name))
        assert [node.cluster for node in topology.nodes] == ["ib", "ib", "roce", "roce"]
        assert {node.device.count for node in topology.nodes} == {per_node}
        assert [path.fabric for path in topology.paths(topology.nodes)] == [Fabric.ETHERNET]
        assert topology.paths(topology.nodes[:2])[0].fabric is Fabric.INFINIBAND
        assert topology.paths(topology.nodes[2:])[0].fabric is Fabric.ROCE


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("nodes: 2", "nodez: 2", 4, "did you mean `nodes`?"),
        ("gbit_s: 200", "gbits: 200", 6, "did you mean `gbit_s`?"),
        ("gbit_s: 200", "gbit_s: -200", 6, "greater than"),
        ("gbit_s: 200", "gbit_s: .nan", 6, "not nan"),
        ("gbit_s: 200", "gbit_s: 1e308", 6, "less than"),
        ("gbit_s: 200", "gbit_s: fast", 6, "a number, not 'fast'"),
        ("nodes: 2", "nodes: true", 4, "not true"),
        ("nodes: 2", "nodes: -2", 4, "greater than 0"),
        ("nodes: 2", "nodes: []", 4, "at least 1 item"),
        ("kind: infiniband", "kind: infiniban", 6, "did you mean `infiniband`?"),
        ("a100-80g-sxm", "a100-80g-sxn", 5, "did you mean `a100-80g-sxm`?"),
        ("v100-32g-sxm2", "v100", 9, "unknown device kind"),
        ("{kind: cpu-core}", "{kind: cpu-core, spede: 2}", 10, "did you mean `speed`?"),
        ("name: two\n", "", None, "this key is needed"),
        ("[ib, roce]", "[ib, rocee]", 12, "did you mean `roce`?"),
        ("[ib, roce]", "[ib, ib]", None, "to itself"),
        ("- name: roce", "- name: ib", None, "two clusters are named"),
        ("kind: ethernet, gbit_s: 25}\n", "kind: roce, gbit_s: 25}\n", 12, "only: ethernet, infin"),
        ("links:\n  - {between: [ib, roce], kind: ethernet, gbit_s: 25}\n", "", 7, "'roce'"),
        ("nodes: 2", "nodes: 100000\n    price_per_hour: .inf", 5, "not inf"),
    ],
)
def test_refusals_name_line_and_reason(
    tmp_path: Path, old: str, new: str, line: int | None, said: str
) -> None:
    error = refusal(tmp_path, old, new)
    assert said in error.text()
    if line is not None:
        assert f"s.yaml:{line}: " in (error.where or "")


def test_a_site_too_large_to_lay_out_is_refused_before_it_is(tmp_path: Path) -> None:
    text = SITE.replace("count: 8", "count: 99999").replace("nodes: 2", "nodes: 99999")
    error = refusal(tmp_path, text=text)
    assert "devices" in error.what


def test_an_unreachable_pair_of_clusters_is_named(tmp_path: Path) -> None:
    cluster = (
        "  - {name: %s, nodes: 1, device: {kind: cpu-core}, nics: [{kind: ethernet, gbit_s: 1}]}\n"
    )
    text = "name: four\nclusters:\n" + "".join(cluster % name for name in "abcd")
    text += "links:\n" + "".join(
        f"  - {{between: [{a}, {b}], kind: ethernet, gbit_s: 1}}\n" for a, b in ("ab", "cd")
    )
    error = refusal(tmp_path, text=text)
    assert "nobody can reach cluster 'c'" in error.what
    assert "no chain of links" in (error.why or "")
    assert "between: [a, c]" in (error.next_step or "")
    path = tmp_path / "joined.yaml"
    path.write_text(text + "  - {between: [b, c], kind: ethernet, gbit_s: 1}\n")
    assert len(read_site(path).links) == 3


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "3\n"])
def test_no_mapping_at_all(tmp_path: Path, text: str) -> None:
    assert "keys and values" in refusal(tmp_path, text=text).what


def test_unknown_site_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        read_site("papper")
    assert caught.value.next_step == "did you mean `paper`?"
    for odd in ("a\0b", "x" * 5000):
        with pytest.raises(ConfigError, match="there is no site"):
            read_site(odd)


def test_schema_describes_the_file() -> None:
    schema = site_schema()
    assert set(schema["properties"]) == {"name", "clusters", "links", "rehearsal"}
    assert schema["additionalProperties"] is False
