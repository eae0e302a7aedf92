"""How fast the emulated links of a rehearsal are: a pure function of the site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holmes.errors import ConfigError
from holmes.hardware.site import Cluster, Fabric, Link, Site

MOST_GBIT_S = 4.0
"""Above this the processor of one machine is the limit, not the shaper."""
LEAST_GBIT_S = 0.0001
"""Below this a rehearsal would wait for minutes on one message."""
CHOSEN_GBIT_S = 2.0
"""Rate of the fastest card when the site says nothing."""
LINKS = "links"
"""Pseudo cluster name in ``rehearsal.rates`` for the links between clusters."""


@dataclass(frozen=True)
class Rates:
    """Rehearsal rates in Gbit/s, each way.

    ``nics`` is by (node index in site order, fabric), all ports of the entry
    together; ``links`` is by index in ``site.links``, aggregate of the link.
    ``note`` says in one sentence where the rates come from.
    """

    nics: Mapping[tuple[int, Fabric], float]
    links: Mapping[int, float]
    note: str


def rehearsal_rates(site: Site) -> Rates:
    """The rates of every card and link, from the ``rehearsal`` section of the site.

    ``rates`` wins over ``scale`` where both are given. A link that ``rates``
    leaves out (and no ``scale`` covers) shrinks by the same factor as the cards
    of its kind in the slower of its two clusters. Without a section the scale
    is chosen so that the fastest card or link runs at :data:`CHOSEN_GBIT_S`.

    Raises:
        ConfigError: a rate is missing, names something that the site does not
            have, or lies outside :data:`LEAST_GBIT_S` .. :data:`MOST_GBIT_S`.
    """
    section = site.rehearsal
    if section is None or (section.scale is None and not section.rates):
        fastest = _fastest(site)
        scale = CHOSEN_GBIT_S / fastest
        note = (
            f"the site sets no rehearsal rates: scaled by {scale:.4g}, so that the fastest "
            f"({fastest:g} Gbit/s) runs at {CHOSEN_GBIT_S:g} Gbit/s"
        )
        return _checked(site, _apply(site, scale, {}, note))
    _check_names(site, section.rates)
    if not section.rates:
        note = f"all rates of the site times {section.scale:g} (rehearsal.scale)"
    elif section.scale is None:
        note = "rates as given in rehearsal.rates"
    else:
        note = f"rates as given in rehearsal.rates, the others times {section.scale:g}"
    return _checked(site, _apply(site, section.scale, section.rates, note))


def _apply(
    site: Site, scale: float | None, given: Mapping[str, Mapping[Fabric, float]], note: str
) -> Rates:
    nics: dict[tuple[int, Fabric], float] = {}
    index = 0
    for cluster in site.clusters:
        for group in cluster.groups():
            for _ in range(group.count):
                for nic in group.nics:
                    rate = given.get(cluster.name, {}).get(nic.kind)
                    if rate is None:
                        if scale is None:
                            raise _missing(cluster, nic.kind)
                        rate = nic.total_gbit_s * scale
                    nics[index, nic.kind] = rate
                index += 1
    links = {}
    for number, link in enumerate(site.links):
        rate = given.get(LINKS, {}).get(link.kind)
        if rate is None:
            rate = link.gbit_s * (scale if scale is not None else _factor(site, link, given))
        links[number] = rate
    return Rates(nics, links, note)


def _factor(site: Site, link: Link, given: Mapping[str, Mapping[Fabric, float]]) -> float:
    """Rehearsed over real rate, in the cluster whose cards of this kind are slower."""
    found = []
    for cluster in site.clusters:
        if cluster.name in link.between:
            real = _slowest(cluster, link.kind)
            if real is not None:
                found.append((real, given[cluster.name][link.kind] / real))
    if not found:
        raise ConfigError(
            f"the {link.kind} link between {' and '.join(link.between)} ends at no card",
            where="links",
            why=f"no node of these clusters has a card of kind {link.kind}",
            next_step=f"add such a card to their `nics`, or give rehearsal.rates.links.{link.kind}",
        )
    return min(found)[1]


def _slowest(cluster: Cluster, fabric: Fabric) -> float | None:
    """Real rate of the slowest card of this kind in a cluster, Gbit/s; None without one."""
    nics = [nic for group in cluster.groups() for nic in group.nics if nic.kind is fabric]
    return min((nic.total_gbit_s for nic in nics), default=None)


def _fastest(site: Site) -> float:
    nics = [nic for cluster in site.clusters for group in cluster.groups() for nic in group.nics]
    return max([nic.total_gbit_s for nic in nics] + [link.gbit_s for link in site.links])


def _missing(cluster: Cluster, fabric: Fabric) -> ConfigError:
    return ConfigError(
        f"no rehearsal rate for the {fabric} cards of cluster {cluster.name!r}",
        where=f"rehearsal.rates.{cluster.name}.{fabric}",
        why="rehearsal.rates must name every NIC kind of every cluster, or a scale must cover it",
        next_step="add the rate in Gbit/s, or a `scale` for everything that is left out",
    )


def _check_names(site: Site, given: Mapping[str, Mapping[Fabric, float]]) -> None:
    """Every rate that is given must set something."""
    known = {
        cluster.name: {nic.kind for group in cluster.groups() for nic in group.nics}
        for cluster in site.clusters
    }
    known[LINKS] = {link.kind for link in site.links} | known.get(LINKS, set())
    for name, rates in given.items():
        for fabric in rates:
            if fabric not in known.get(name, set()):
                has = ", ".join(sorted(known.get(name, set()))) or "nothing"
                raise ConfigError(
                    f"rehearsal.rates sets a {fabric} rate that nothing uses",
                    where=f"rehearsal.rates.{name}.{fabric}",
                    why=f"{name!r} has {has}",
                    next_step="remove the entry, or name a kind that is there",
                )


def _checked(site: Site, rates: Rates) -> Rates:
    """Refuse rates that this machine cannot shape, naming the worst one."""
    named: list[tuple[float, str]] = []
    index = 0
    for cluster in site.clusters:
        for group in cluster.groups():
            for nic in group.nics:
                place = f"{nic.kind} cards of cluster {cluster.name!r}"
                named.append((rates.nics[index, nic.kind], place))
            index += group.count
    for number, link in enumerate(site.links):
        place = f"{link.kind} link between {' and '.join(link.between)}"
        named.append((rates.links[number], place))
    scale = site.rehearsal.scale if site.rehearsal else None
    most, where = max(named)
    if most > MOST_GBIT_S:
        fits = f"a scale of at most {scale * MOST_GBIT_S / most:.3g}" if scale else "lower rates"
        raise ConfigError(
            f"the {where} would run at {most:g} Gbit/s in the rehearsal",
            where="rehearsal",
            why=f"above {MOST_GBIT_S:g} Gbit/s the processor is the limit, not the shaper",
            next_step=f"set {fits} (rehearsal.scale, rehearsal.rates)",
        )
    least, where = min(named)
    if least < LEAST_GBIT_S:
        raise ConfigError(
            f"the {where} would run at {least * 1e6:.3g} kbit/s in the rehearsal",
            where="rehearsal",
            why=f"below {LEAST_GBIT_S * 1e6:g} kbit/s one message takes minutes",
            next_step="set a larger rehearsal.scale, or give this rate in rehearsal.rates",
        )
    return rates
