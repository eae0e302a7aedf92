"""Rehearsal rates: a pure function of the site."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holmes.errors import ConfigError
from holmes.hardware.site import Fabric, Site
from holmes.lab.rates import CHOSEN_GBIT_S, MOST_GBIT_S, rehearsal_rates

IB, ROCE, ETH = Fabric.INFINIBAND, Fabric.ROCE, Fabric.ETHERNET


def site(rehearsal: dict[str, object] | None = None, link: float = 25) -> Site:
    device = {"kind": "cpu-core"}
    return Site.model_validate(
        {
            "name": "two",
            "clusters": [
                {
                    "name": "ib",
                    "nodes": 2,
                    "device": device,
                    "nics": [
                        {"kind": "infiniband", "gbit_s": 200, "count": 4},
                        {"kind": "ethernet", "gbit_s": 25},
                    ],
                },
                {
                    "name": "roce",
                    "nodes": 1,
                    "device": device,
                    "nics": [
                        {"kind": "roce", "gbit_s": 200, "count": 2},
                        {"kind": "ethernet", "gbit_s": 10},
                    ],
                },
            ],
            "links": [{"between": ["ib", "roce"], "kind": "ethernet", "gbit_s": link}],
            "rehearsal": rehearsal,
        }
    )


def test_a_scale_applies_to_all_ports_of_an_entry_and_to_links() -> None:
    rates = rehearsal_rates(site({"scale": 0.001}))
    assert rates.nics == pytest.approx(
        {(0, IB): 0.8, (0, ETH): 0.025, (1, IB): 0.8, (1, ETH): 0.025, (2, ROCE): 0.4}
        | {(2, ETH): 0.01}
    )
    assert rates.links == pytest.approx({0: 0.025})
    assert "0.001" in rates.note


def test_given_rates_are_for_the_whole_entry_and_links_follow_the_slower_cluster() -> None:
    given_rates = {
        "ib": {"infiniband": 2.0, "ethernet": 0.5},
        "roce": {"roce": 1.0, "ethernet": 0.1},
    }
    rates = rehearsal_rates(site({"rates": given_rates}, link=40))
    assert rates.nics[0, IB] == 2.0
    assert rates.nics[2, ROCE] == 1.0
    # The slower Ethernet is that of roce: 10 became 0.1 Gbit/s, so 40 becomes 0.4.
    assert rates.links[0] == pytest.approx(0.4)


def test_a_given_link_rate_wins_and_a_scale_covers_what_is_left_out() -> None:
    rates = rehearsal_rates(
        site({"scale": 0.001, "rates": {"links": {"ethernet": 0.3}, "ib": {"infiniband": 3.0}}})
    )
    assert rates.links[0] == 0.3
    assert rates.nics[1, IB] == 3.0
    assert rates.nics[2, ROCE] == pytest.approx(0.4)


def test_without_a_section_the_fastest_runs_at_the_chosen_rate_and_says_so() -> None:
    rates = rehearsal_rates(site())
    assert max(rates.nics.values()) == pytest.approx(CHOSEN_GBIT_S)
    assert rates.nics[0, IB] / rates.nics[2, ROCE] == pytest.approx(2)
    assert "sets no rehearsal rates" in rates.note


def test_a_rate_above_the_cap_names_the_scale_that_fits() -> None:
    with pytest.raises(ConfigError) as caught:
        rehearsal_rates(site({"scale": 0.01}))
    assert "infiniband cards of cluster 'ib'" in str(caught.value)
    assert "0.005" in str(caught.value)
    assert rehearsal_rates(site({"scale": 0.005})).nics[0, IB] == pytest.approx(MOST_GBIT_S)


def test_a_rate_too_small_to_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="kbit/s"):
        rehearsal_rates(site({"scale": 1e-6}))


@pytest.mark.parametrize(
    ("rates", "where"),
    [
        ({"ib": {"infiniband": 1.0}}, "rehearsal.rates.ib.ethernet"),
        ({"ib": {"roce": 1.0}}, "rehearsal.rates.ib.roce"),
        ({"links": {"infiniband": 1.0}}, "rehearsal.rates.links.infiniband"),
    ],
)
def test_missing_and_useless_rates_are_named(
    rates: dict[str, dict[str, float]], where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        rehearsal_rates(site({"rates": rates}))
    assert caught.value.where == where


def test_a_link_that_ends_at_no_card_is_refused() -> None:
    given_rates = {
        "ib": {"infiniband": 2.0, "ethernet": 0.5},
        "roce": {"roce": 1.0, "ethernet": 0.1},
    }
    bare = site({"rates": given_rates}).model_dump()
    for cluster in bare["clusters"]:
        cluster["nics"] = [nic for nic in cluster["nics"] if nic["kind"] != "ethernet"]
        del bare["rehearsal"]["rates"][cluster["name"]][ETH]
    with pytest.raises(ConfigError, match="ends at no card"):
        rehearsal_rates(Site.model_validate(bare))


@given(st.floats(1e-5, 5e-3))
def test_scaling_keeps_every_ratio(scale: float) -> None:
    real, scaled = site(), rehearsal_rates(site({"scale": scale}))
    for (node, fabric), rate in scaled.nics.items():
        cluster = real.clusters[0 if node < 2 else 1]
        nic = next(nic for nic in cluster.nics if nic.kind is fabric)
        assert rate == pytest.approx(nic.total_gbit_s * scale)
