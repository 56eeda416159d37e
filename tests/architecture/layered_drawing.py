"""A graph without circles as an SVG: layers from top to bottom, every arrow downwards.

After Sugiyama, Tagawa and Toda, Methods for visual understanding of hierarchical system structures
(1981): a node lies above all that it leads to, an arrow over several layers bends in each, and
each layer is ordered by the means of its neighbours' places, down and up again, so that few arrows
cross.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from html import escape
from itertools import pairwise

Graph = Mapping[str, Set[str]]
Place = tuple[float, float]

WIDTH, LAYER_HEIGHT, BOX_HEIGHT, MARGIN = 1080, 74, 28, 12
BEND_WIDTH = 14
SWEEPS = 24
STYLE = """\
text { font: 13px system-ui, sans-serif; text-anchor: middle; fill: #10302c }
path { fill: none; stroke: #7a8a88; stroke-width: 1.2 }
rect { stroke: #4a7f78; rx: 4 }
.clipsearch { fill: #c4e8e2 }
.finetune { fill: #f3e3bd }"""


class Node(str):
    """A node of the graph; a bend of an arrow is one with a blank in its name."""

    __slots__ = ()

    @property
    def is_bend(self) -> bool:
        return " " in self

    @property
    def width(self) -> float:
        return BEND_WIDTH if self.is_bend else 8.2 * len(self.partition(".")[2]) + 26


Layers = list[list[Node]]
Arrows = dict[Node, list[Node]]


def levels(graph: Graph) -> dict[str, int]:
    """The layer of each node, from 0 for what leads nowhere."""
    found: dict[str, int] = {}

    def level(node: str) -> int:
        if node not in found:
            found[node] = 1 + max((level(other) for other in graph.get(node, ())), default=-1)
        return found[node]

    for node in sorted(graph):
        level(node)
    return found


def with_bends(graph: Graph, level: Mapping[str, int]) -> tuple[Layers, Arrows]:
    """Layers from the top, and the arrows between neighbouring ones."""
    layers: Layers = [[] for _ in range(max(level.values()) + 1)]
    for node in sorted(level):
        layers[level[node]].append(Node(node))
    arrows: Arrows = {}
    for here in sorted(graph):
        for other in sorted(graph[here]):
            way = [Node(here)]
            for layer in range(level[here] - 1, level[other], -1):
                way.append(Node(f"{here} {other} {layer}"))
                layers[layer].append(way[-1])
            for one, next_one in pairwise([*way, Node(other)]):
                arrows.setdefault(one, []).append(next_one)
    return layers[::-1], arrows


def ordered(layers: Layers, arrows: Arrows) -> Layers:
    """The layers in the best order that the sweeps find, by the number of crossings."""
    above: Arrows = {}
    for one, others in arrows.items():
        for other in others:
            above.setdefault(other, []).append(one)
    best, least = layers, crossings(layers, arrows)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else arrows
        layers = [list(layer) for layer in layers]
        turns = range(1, len(layers)) if down else range(len(layers) - 2, -1, -1)
        for number in turns:
            other = layers[number - 1 if down else number + 1]
            layers[number].sort(key=_mean_place(layers[number], other, neighbours))
        count = crossings(layers, arrows)
        if count < least:
            best, least = layers, count
    return best


def _mean_place(
    layer: list[Node], other: list[Node], neighbours: Arrows
) -> Callable[[Node], float]:
    place = {node: number / max(len(other) - 1, 1) for number, node in enumerate(other)}
    own = {node: number / max(len(layer) - 1, 1) for number, node in enumerate(layer)}

    def mean(node: Node) -> float:
        near = [place[each] for each in neighbours.get(node, ()) if each in place]
        return sum(near) / len(near) if near else own[node]

    return mean


def crossings(layers: Layers, arrows: Arrows) -> int:
    """How often arrows cross."""
    count = 0
    for upper, lower in pairwise(layers):
        place = {node: number for number, node in enumerate(lower)}
        ends: list[int] = []
        for node in upper:
            for end in sorted(place[each] for each in arrows.get(node, ()) if each in place):
                count += sum(before > end for before in ends)
                ends.append(end)
    return count


def places(layers: Layers) -> dict[Node, Place]:
    """The middle of each node: each layer spread over the width."""
    found = {}
    for number, layer in enumerate(layers):
        gap = (WIDTH - 2 * MARGIN - sum(node.width for node in layer)) / (len(layer) + 1)
        x = MARGIN + gap
        for node in layer:
            found[node] = (x + node.width / 2, MARGIN + BOX_HEIGHT / 2 + number * LAYER_HEIGHT)
            x += node.width + gap
    return found


def drawing(graph: Graph) -> str:
    """The whole SVG; a node is named `group.name`, and its group is its class."""
    layers, arrows = with_bends(graph, levels(graph))
    layers = ordered(layers, arrows)
    place = places(layers)
    height = 2 * MARGIN + BOX_HEIGHT + (len(layers) - 1) * LAYER_HEIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
            f"<style>{STYLE}</style>",
            '<rect width="100%" height="100%" style="fill: #fff; stroke: none"/>',
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" orient="auto"'
            ' markerHeight="7"><path d="M0 0L8 4L0 8z" style="fill: #7a8a88"/></marker>',
            *_ways(arrows, place),
            *_boxes(place),
            "</svg>\n",
        ]
    )


def _ways(arrows: Arrows, place: Mapping[Node, Place]) -> Iterator[str]:
    for start in arrows:
        if start.is_bend:
            continue
        for following in arrows[start]:
            x, y = place[start]
            node, at = following, (x, y + BOX_HEIGHT / 2)
            path = f"M{at[0]:.0f} {at[1]:.0f}"
            while True:
                end_x, end_y = place[node]
                end_y -= 0 if node.is_bend else BOX_HEIGHT / 2
                half = (end_y - at[1]) / 2
                path += f"C{at[0]:.0f} {at[1] + half:.0f} {end_x:.0f} {end_y - half:.0f}"
                path += f" {end_x:.0f} {end_y:.0f}"
                at = (end_x, end_y)
                if not node.is_bend:
                    break
                (node,) = arrows[node]
            yield f'<path d="{path}" marker-end="url(#head)"/>'


def _boxes(place: Mapping[Node, Place]) -> Iterator[str]:
    for node, (x, y) in place.items():
        if node.is_bend:
            continue
        group, _, name = node.partition(".")
        yield (
            f'<rect class="{escape(group)}" x="{x - node.width / 2:.0f}"'
            f' y="{y - BOX_HEIGHT / 2:.0f}" width="{node.width:.0f}" height="{BOX_HEIGHT}"/>'
            f'<text x="{x:.0f}" y="{y + 4.5:.0f}">{escape(name)}</text>'
        )
