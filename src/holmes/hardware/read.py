"""Sites from files and from the catalogue, checked beyond their types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from holmes.errors import ConfigError, suggestion
from holmes.hardware.catalogue import resolve
from holmes.hardware.site import Cluster, Fabric, Site
from holmes.hardware.validation import did_you_mean, validated
from holmes.hardware.yaml_reader import Document, KeyPath, part_of, read_yaml, shown

SITES = Path(__file__).parent / "data" / "sites"
MAX_DEVICES = 1_000_000
Where = Callable[[KeyPath], str]


def catalogue_sites() -> tuple[str, ...]:
    """Names of the sites that come with the project."""
    return tuple(sorted(path.stem for path in SITES.glob("*.yaml")))


def site_document(name: str | Path, *, beside: Path | None = None) -> Document:
    """The document of a site file or of a catalogue site.

    A bare word is looked up in the catalogue. Anything else is a path: tried
    in the folder ``beside`` (that of the job file) first, then from here.

    Raises:
        ConfigError: when there is no such site, with the nearest name.
    """
    text = str(name)
    if text in catalogue_sites():
        document = read_yaml(SITES / f"{text}.yaml")
        return Document(f"catalogue site {text}", document.data, document.lines)
    candidates = [Path(text)] if beside is None else [beside / text, Path(text)]
    for path in candidates:
        if _is_file(path):
            return read_yaml(path)
    near = suggestion(text[:80], catalogue_sites())
    raise ConfigError(
        f"there is no site `{shown(text)}`",
        where=shown(str(candidates[0])),
        why="it is neither a file nor one of the catalogue: " + ", ".join(catalogue_sites()),
        next_step=f"did you mean `{near}`?" if near else "give the path of a site file",
    )


def read_site(name: str | Path, *, beside: Path | None = None) -> Site:
    """The site in a file, or of this name in the catalogue.

    Raises:
        ConfigError: naming file, line and key of what is wrong.
    """
    document = site_document(name, beside=beside)
    return site_from(document.data, document.where)


def site_from(data: Any, where: Where) -> Site:
    """A checked site from parsed values; ``where`` gives the place of a key path.

    Raises:
        ConfigError: for wrong keys, types and ranges, unknown device kinds, and
            clusters that nobody can reach.
    """
    _check_link_ends(data, where)
    site = validated(Site, data, what="site", where=where)
    _check_kinds(site, where)
    _check_size(site, where)
    _check_reachable(site, where)
    return site


def site_schema() -> dict[str, Any]:
    """JSON schema of the site file, for editors."""
    schema = Site.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Holmes site"
    return schema


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _check_link_ends(data: Any, where: Where) -> None:
    """Before validation, while the line of each link is at hand: its clusters exist."""
    clusters = part_of(data, "clusters")
    links = part_of(data, "links")
    if not isinstance(clusters, list) or not isinstance(links, list):
        return
    names = [part_of(cluster, "name") for cluster in clusters]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return
    for index, link in enumerate(links):
        ends = part_of(link, "between")
        for end in ends if isinstance(ends, list) else ():
            if isinstance(end, str) and end not in names:
                raise ConfigError(
                    f"bad site: a link names cluster `{shown(end)}`, which is not there",
                    where=where(("links", index, "between")),
                    why="clusters: " + ", ".join(shown(name) for name in names),
                    next_step=did_you_mean(end, names),
                )


def _check_kinds(site: Site, where: Where) -> None:
    for index, cluster in enumerate(site.clusters):
        short = isinstance(cluster.nodes, int)
        for position, group in enumerate(cluster.groups()):
            inner: KeyPath = () if short else ("nodes", position)
            place: KeyPath = ("clusters", index, *inner, "device", "kind")
            resolve(group.device, where=where(place))


def _check_size(site: Site, where: Where) -> None:
    devices = sum(
        group.count * group.device.count for cluster in site.clusters for group in cluster.groups()
    )
    if devices > MAX_DEVICES:
        raise ConfigError(
            f"bad site: it has {devices} devices",
            where=where(("clusters",)),
            why=f"one site holds at most {MAX_DEVICES} devices",
        )


def _check_reachable(site: Site, where: Where) -> None:
    """Every cluster must be joined to the others by links it has a NIC for."""
    fabrics = {cluster.name: _fabrics(cluster) for cluster in site.clusters}
    for index, link in enumerate(site.links):
        for end in link.between:
            if link.kind not in fabrics[end]:
                raise ConfigError(
                    f"bad site: no node of cluster {end!r} can use the {link.kind.value} link",
                    where=where(("links", index, "kind")),
                    why=f"its nodes have only: {', '.join(sorted(fabrics[end]))}",
                    next_step=f"add a nic of kind {link.kind.value}, or change the link",
                )
    first = site.clusters[0].name
    reached = {first}
    frontier = [first]
    while frontier:
        here = frontier.pop()
        for link in site.links:
            if here in link.between:
                other = link.between[1] if link.between[0] == here else link.between[0]
                if other not in reached:
                    reached.add(other)
                    frontier.append(other)
    for index, cluster in enumerate(site.clusters):
        if cluster.name not in reached:
            alone = not any(cluster.name in link.between for link in site.links)
            raise ConfigError(
                f"bad site: nobody can reach cluster {cluster.name!r}",
                where=where(("clusters", index, "name")),
                why="no link names it" if alone else f"no chain of links joins it to {first!r}",
                next_step=f"add under links: {{between: [{first}, {cluster.name}], "
                "kind: ethernet, gbit_s: ...}",
            )


def _fabrics(cluster: Cluster) -> set[Fabric]:
    return {nic.kind for group in cluster.groups() for nic in group.nics}
