from __future__ import annotations

import pytest
from typer.testing import CliRunner

from holmes.errors import ConfigError
from holmes.hardware.site import Fabric
from holmes.hardware.topology import Topology
from holmes.lab.faults import KINDS, parse_faults
from tests.diagnose.cases import plan
from tests.lab.hosts import site


def parse(*texts: str) -> list[object]:
    return list(parse_faults(texts, Topology(plan().site), 20))


def test_every_part_of_a_fault_is_read() -> None:
    (kill, rate) = parse_faults(
        ["kill:rank=2@step=5,phase=backward", "rate:host=a-1,nic=ethernet,share=0.25@step=3"],
        Topology(plan().site),
        20,
    )
    assert (kill.kind, kill.rank, kill.step, kill.phase) == ("kill", 2, 5, "backward")
    assert (rate.host, rate.nic, rate.share, rate.step) == ("a-1", Fabric.ETHERNET, 0.25, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kil:rank=2@step=5", "did you mean 'kill'"),
        ("kill:rank=2", "does not say when"),
        ("kill:rank=4@step=5", "from 0 to 3"),
        ("kill:rank=-1@step=5", "rank=-1"),
        ("kill:rank=2@step=20", "from 0 to 19"),
        ("kill:rank=2@phase=backward", "names no step"),
        ("kill:rank=2@step=5,phase=backwards", "did you mean 'backward'"),
        ("kill:rnk=2@step=5", "did you mean 'rank'"),
        ("kill:rank@step=5", "no value"),
        ("kill:rank=1,rank=2@step=5", "twice"),
        ("kill@step=5", "needs rank="),
        ("slow:rank=1,share=2@step=5", "between 0 and 1"),
        ("rate:share=0.5@step=5", "either host= and nic=, or link="),
        ("rate:link=0@step=5", "no link"),
        ("loss:percent=1@step=5", "loss needs either host= and nic=, or link="),
        ("loss:host=a-1,nic=ethernet,percent=100@step=5", "between 0 and 100"),
        ("latency:host=a-1,nic=ethernet,ms=x@step=5", "ms=x"),
        ("jitter:host=a-1,nic=ethernet,percent=1@step=5", "unknown key 'percent'"),
        ("cut:host=a-9,nic=ethernet@step=5", "no host 'a-9'"),
        ("cut:host=a-1,nic=infiniband@step=5", "no infiniband card"),
        ("cpu:rank=1@step=5,phase=forward", "unknown key 'phase'"),
        ("", "no fault ''"),
    ],
)
def test_a_bad_fault_is_refused_with_a_hint(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert says in refused.value.text()
    assert refused.value.exit_code == 78


def test_a_link_is_named_by_its_clusters_or_its_number() -> None:
    topology = Topology(site())
    for link in ("0", "ib-roce", "roce-ib"):
        (loss,) = parse_faults([f"loss:link={link},percent=0.5@step=3"], topology, 20)
        assert (loss.link, loss.percent, loss.to_dict()["ms"]) == (0, 0.5, None)
    with pytest.raises(ConfigError, match="no link 'ib-roc'"):
        parse_faults(["loss:link=ib-roc@step=3"], topology, 20)


def test_every_kind_has_an_example_that_parses() -> None:
    where = {"rank": "rank=1", "host": "host=a-1,nic=ethernet"}
    for name, kind in KINDS.items():
        place = where["rank" if "rank" in kind.needs else "host"]
        if name == "host":
            place = "host=a-1"
        assert parse(f"{name}:{place}@step=1")


def test_the_command_refuses_before_anything_starts() -> None:
    from holmes.cli.main import app

    words = ["rehearse", "--site", "demo", "--model", "gpt-1m", "--inject", "kill:rank=9@step=1"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, ConfigError)
