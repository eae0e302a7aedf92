"""The site as a picture: clusters, hosts, their cards, and who sends what over which network."""

from __future__ import annotations

from collections.abc import Sequence

from holmes.hardware.site import Fabric
from holmes.plan import Plan
from holmes.report import units
from holmes.report.parts.html import Html, join, section, tag
from holmes.report.parts.map_model import Card, Edge, SiteMap, site_map
from holmes.report.parts.traffic import label_of
from holmes.report.run_data import RunData

CARD, GAP, PAD, ARC, TOP = 190.0, 118.0, 12.0, 54.0, 46.0
HEAD, ROW, BETWEEN = 50.0, 24.0, 18.0
THINNEST, THICKEST = 1.6, 11.0
MOST_LABELS = 6

Spot = tuple[float, float]


def sitemap(runs: Sequence[RunData]) -> Html:
    """One map per run, all with the same scale of line widths."""
    plans = [(run, run.plan) for run in runs if run.plan]
    if not plans:
        return section("map", "Where the bytes go", "No plan was saved: no map to draw.")
    maps = [site_map(plan, shaped=run.word("links") == "shaped") for run, plan in plans]
    most = max((edge.bytes_ for drawn in maps for edge in drawn.edges), default=1.0)
    figures = [
        tag(
            "figure",
            tag("figcaption", run.name if len(plans) > 1 else plan.site.name, _order(plan)),
            tag("div", _draw(drawn, most), class_="scroll"),
        )
        for (run, plan), drawn in zip(plans, maps, strict=True)
    ]
    used = {edge.fabric for drawn in maps for edge in drawn.edges}
    legend = [
        tag("li", tag("span", class_=f"swatch t-{fabric}"), label_of(fabric))
        for fabric in Fabric
        if fabric in used
    ]
    return section(
        "map",
        "Where the bytes go",
        "Hosts with their network cards. Each line joins hosts that exchange data in a step, in "
        "the colour of the network that carries it; its width is the bytes.",
        tag("ul", *legend, class_="legend"),
        tag("div", *figures, class_="columns" if len(figures) > 1 else "alone"),
    )


def _order(plan: Plan) -> Html:
    ranks = ", ".join(str(device) for device in plan.rank_map[:8])
    more = ", …" if plan.world_size > 8 else ""
    return tag("small", f" {plan.order} order, ranks on devices {ranks}{more}")


def _draw(drawn: SiteMap, most: float) -> Html:
    columns = len(drawn.clusters)
    left = [_column_left(i) for i in range(columns)]
    places: dict[int, Spot] = {}
    heights: list[float] = []
    for i, cluster in enumerate(drawn.clusters):
        y = TOP + PAD
        for card in cluster.cards:
            places[card.index] = (left[i] + _inset(i, columns), y)
            y += _card_height(card) + BETWEEN
        heights.append(y - BETWEEN + PAD)
    height = max(heights) + 8
    width = left[-1] + CARD + 2 * PAD + ARC + 2
    boxes = [
        _cluster_box(cluster.name, cluster.note, left[i], heights[i])
        for i, cluster in enumerate(drawn.clusters)
    ]
    cards = [_card(card, places[card.index]) for c in drawn.clusters for card in c.cards]
    lines, labels = _edges(drawn, places, columns, most)
    links = [_link(text, left, i) for i, text in enumerate(drawn.links) if text]
    return tag(
        "svg",
        *boxes,
        *lines,
        *cards,
        *labels,
        *links,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="map",
        style=f"max-width:{width:g}px;min-width:{min(width, 520):g}px",
        role="img",
        aria_label="Map of the site with its groups",
    )


def _column_left(index: int) -> float:
    return 1.0 + index * (CARD + 2 * PAD + ARC + GAP)


def _inset(index: int, columns: int) -> float:
    """Room for the arcs inside a cluster: on its outer side, left but for the last column."""
    outer_left = index < columns - 1 or columns == 1
    return PAD + (ARC if outer_left else 0.0)


def _card_height(card: Card) -> float:
    return HEAD + ROW * len(card.ports) + 8


def _cluster_box(name: str, note: str, x: float, height: float) -> Html:
    width = CARD + 2 * PAD + ARC
    return join(
        (
            tag("rect", x=x, y=TOP, width=width, height=height - TOP, rx=12.0, class_="cluster"),
            tag("text", _short(name, 20), x=x + 4, y=TOP - 24, class_="cluster-name"),
            tag("text", _short(note, 40), x=x + 4, y=TOP - 8, class_="tick"),
        )
    )


def _card(card: Card, at: Spot) -> Html:
    x, y = at
    parts = [
        tag("rect", x=x, y=y, width=CARD, height=_card_height(card), rx=8.0, class_="host"),
        tag("text", _short(card.name, 22), x=x + 12, y=y + 20, class_="host-name"),
        tag("text", _short(card.ranks, 30), x=x + 12, y=y + 37, class_="tick"),
    ]
    for i, port in enumerate(card.ports):
        top = y + HEAD + ROW * i
        idle = "" if port.bytes_ else " idle"
        sends = f"{units.bytes_(port.bytes_)} sent per step" if port.bytes_ else "not used"
        tip = f"{card.name}, {label_of(port.fabric)}\n{units.rate(port.gbit_s)}\n{sends}"
        row = tag(
            "g",
            tag("rect", x=x, y=top + 2, width=5.0, height=ROW - 4, class_=f"port t-{port.fabric}"),
            tag(
                "rect",
                x=x + CARD - 5,
                y=top + 2,
                width=5.0,
                height=ROW - 4,
                class_=f"port t-{port.fabric}",
            ),
            tag("text", label_of(port.fabric), x=x + 12, y=top + 16, class_="port-name"),
            tag("text", units.rate(port.gbit_s), x=x + CARD - 12, y=top + 16, class_="port-rate"),
            tag("rect", x=x, y=top, width=CARD, height=ROW, class_="hit"),
            class_=f"port-row{idle}",
            data_tip=tip,
        )
        parts.append(row)
    return join(parts)


def _edges(
    drawn: SiteMap, places: dict[int, Spot], columns: int, most: float
) -> tuple[list[Html], list[Html]]:
    """The lines, and the labels that lie over everything; thick lines first."""
    cards = {card.index: card for cluster in drawn.clusters for card in cluster.cards}
    column = {card.index: i for i, c in enumerate(drawn.clusters) for card in c.cards}
    lines: list[Html] = []
    labels: list[Html] = []
    for edge in sorted(drawn.edges, key=lambda e: -e.bytes_):
        a, b = sorted((edge.a, edge.b), key=lambda index: (column[index], places[index][1]))
        inside = column[a] == column[b]
        on_left = inside and (column[a] < columns - 1 or columns == 1)
        start = _port_spot(cards[a], places[a], edge.fabric, left=on_left)
        stop = _port_spot(cards[b], places[b], edge.fabric, left=on_left or not inside)
        path, middle = _arc(start, stop, on_left) if inside else _across(start, stop)
        lines.append(_edge_line(edge, path, most, cards[a].name, cards[b].name))
        if len(drawn.edges) <= MOST_LABELS:
            labels.append(_edge_label(edge, middle))
    return lines, labels


def _port_spot(card: Card, at: Spot, fabric: Fabric, *, left: bool) -> Spot:
    row = next((i for i, port in enumerate(card.ports) if port.fabric is fabric), 0)
    return at[0] if left else at[0] + CARD, at[1] + HEAD + ROW * (row + 0.5)


def _arc(start: Spot, stop: Spot, on_left: bool) -> tuple[str, Spot]:
    bulge = (-1 if on_left else 1) * min(ARC * 0.95, 26 + 0.15 * abs(stop[1] - start[1]))
    (x1, y1), (x2, y2) = start, stop
    path = (
        f"M{x1:.1f},{y1:.1f} C{x1 + bulge:.1f},{y1:.1f} {x2 + bulge:.1f},{y2:.1f} {x2:.1f},{y2:.1f}"
    )
    return path, (x1 + bulge * 0.75, (y1 + y2) / 2)


def _across(start: Spot, stop: Spot) -> tuple[str, Spot]:
    (x1, y1), (x2, y2) = start, stop
    half = (x2 - x1) / 2
    path = (
        f"M{x1:.1f},{y1:.1f} C{x1 + half:.1f},{y1:.1f} {x2 - half:.1f},{y2:.1f} {x2:.1f},{y2:.1f}"
    )
    return path, (x1 + half, (y1 + y2) / 2)


def _edge_line(edge: Edge, path: str, most: float, a: str, b: str) -> Html:
    width = max(THINNEST, THICKEST * (edge.bytes_ / most) ** 0.5)
    groups = ", ".join(edge.groups[:4]) + (" …" if len(edge.groups) > 4 else "")
    tip = (
        f"{a} and {b} over {label_of(edge.fabric)}\n"
        f"{units.bytes_(edge.bytes_)} per step, both ways together\n{groups}"
    )
    return tag("path", d=path, class_=f"edge t-{edge.fabric}", stroke_width=width, data_tip=tip)


def _edge_label(edge: Edge, at: Spot) -> Html:
    text = units.bytes_(edge.bytes_)
    half = 3.5 * len(text) + 6
    return join(
        (
            tag(
                "rect",
                x=at[0] - half,
                y=at[1] - 9,
                width=2 * half,
                height=18.0,
                rx=9.0,
                class_="halo",
            ),
            tag("text", text, x=at[0], y=at[1] + 4, class_="edge-label mid"),
        )
    )


def _link(text: str, left: Sequence[float], index: int) -> Html:
    start = left[index] + CARD + 2 * PAD + ARC
    return tag("text", text, x=start + GAP / 2, y=TOP - 8, class_="tick mid")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
