"""Flows drawn: which nodes and edges a flow has, and that the drawings hold every name and keep boxes apart."""

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner

from event_streaming_bus.cli.main import cli
from event_streaming_bus.errors import BusError
from event_streaming_bus.flows.graph import Edge, EdgeKind, Graph, Node, duration, graph_of, mermaid, shortened
from event_streaming_bus.flows.graph_layout import GAP, Box, Layout, lay_out
from event_streaming_bus.flows.graph_svg import fitted, svg, text_width
from event_streaming_bus.flows.processors.join import JoinLogic, Within
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec, parse_flow
from event_streaming_bus.models import ErrorHandlingStrategy, ProcessorType

SVG = "{http://www.w3.org/2000/svg}"
AWKWARD = [
    "end",
    'a "b" [c] (d) {e}',
    "日本語 <b>&amp;",
    "a;b|c`d`",
    "#35; \\n",
    "subgraph",
    "\u0000\ud83d\ude00\ud800",
    "x" * 300,
]


def keep(name: str, source: str, target: str | None = None, strategy: str = "SKIP", expression: str = "true") -> dict[str, Any]:
    return {
        "processor_name": name,
        "processor_type": "FILTER",
        "source_stream_id": source,
        "processing_logic": {"filter_expression": expression},
        "error_handling_strategy": strategy,
    } | ({"target_stream_id": target} if target else {})


def flow(*processors: dict[str, Any], **more: Any) -> FlowSpec:
    return parse_flow({"processors": list(processors), **more}, name="drawn")


def linked(spec: FlowSpec, source: str, right: str | None = None) -> FlowSpec:
    """The flow with one more processor, which reads a port or is a JOIN."""
    pairs = ((("order", "id"), ("order", "id")),)
    joined = JoinLogic(join_stream_id=right or "", on=pairs, within=Within(before_ms=5000, after_ms=5000))
    logic = spec.processors[0].processing_logic if right is None else joined
    more = ProcessorSpec(
        processor_name="last",
        processor_type=ProcessorType.FILTER if right is None else ProcessorType.JOIN,
        source_stream_id=source,
        target_stream_id="end",
        processing_logic=logic,
        error_handling_strategy=ErrorHandlingStrategy.STOP,
    )
    return msgspec.structs.replace(spec, processors=(*spec.processors, more))


def thirty() -> FlowSpec:
    """Thirty processors that read three streams and each other and write to seven streams."""
    chance = random.Random(3)
    sources = [chance.choice(("a", "b", "c")) if i < 5 else f"p{chance.randrange(max(0, i - 9), i)}" for i in range(30)]
    return flow(*(keep(f"p{i}", source, f"out_{i % 7}", "DEAD_LETTER", f"payload.x > {i}") for i, source in enumerate(sources)))


# --- structure ----------------------------------------------------------------------------------------------------------


def test_a_flow_is_its_streams_its_processors_and_what_goes_between_them() -> None:
    graph = graph_of(flow(keep("f", "in"), keep("g", "f", "out"), keep("h", "f", "out"), streams=[{"name": "spare"}]))
    assert [node.name for node in graph.nodes if node.is_stream] == ["spare", "in", "out"]
    assert [(node.name, node.kind) for node in graph.nodes if not node.is_stream] == [(n, "FILTER") for n in "fgh"]
    assert [(edge.source, edge.target) for edge in graph.edges] == [
        ("in", "f"),
        ("f", "g"),
        ("g", "out"),
        ("f", "h"),
        ("h", "out"),
    ]


@pytest.mark.parametrize("port", ["late", "errors"])
def test_a_port_is_an_edge_from_its_processor(port: str) -> None:
    edge = graph_of(linked(flow(keep("f", "in", "out")), f"f.{port}")).edges[2]
    assert (edge.source, edge.target, edge.kind, edge.label) == ("f", "last", port, port)


def test_a_stream_whose_name_looks_like_a_port_is_a_stream() -> None:
    graph = graph_of(flow(keep("f", "other.late", "out")))
    assert graph.edges[0] == Edge("other.late", "f")
    assert graph.nodes[0] == Node("other.late", "STREAM")


def test_a_join_is_entered_from_the_left_and_from_the_right() -> None:
    graph = graph_of(linked(flow(keep("f", "in", "out")), "f", right="payments"))
    entering = [edge for edge in graph.edges if edge.target == "last"]
    assert [(edge.source, edge.label) for edge in entering] == [("f", "left"), ("payments", "right")]
    assert graph.nodes[-2].summary == "inner on order.id, within 5 s"


@pytest.mark.parametrize(("strategy", "kept"), [("DEAD_LETTER", True), ("RETRY", True), ("SKIP", False), ("STOP", False)])
def test_errors_that_nobody_reads_go_to_the_dead_letters_if_they_are_kept(strategy: str, kept: bool) -> None:
    graph = graph_of(flow(keep("f", "in", "out", strategy)))
    assert (Edge("f", "_dead_letters", EdgeKind.DEAD_LETTERS) in graph.edges) is kept
    assert ("_dead_letters" in [node.name for node in graph.nodes]) is kept


def test_errors_that_are_read_do_not_go_to_the_dead_letters() -> None:
    graph = graph_of(linked(flow(keep("f", "in", "out", "DEAD_LETTER")), "f.errors"))
    assert "_dead_letters" not in [node.name for node in graph.nodes]


def test_a_summary_tells_functions_keys_and_window() -> None:
    aggregate = {
        "processor_name": "a",
        "processor_type": "AGGREGATE",
        "source_stream_id": "in",
        "target_stream_id": "out",
        "processing_logic": {"aggregations": [{"function": "sum", "field": "x"}, {"function": "count"}], "group_by": ["a.b"]},
        "window_config": {"window_type": "tumbling", "window_size_ms": 5_400_000},
    }
    assert graph_of(flow(aggregate)).nodes[1].summary == "sum, count, by a.b, tumbling 90 min"


@pytest.mark.parametrize(
    ("span_ms", "told"),
    [(0, "0 ms"), (250, "250 ms"), (1000, "1 s"), (90_000, "90 s"), (86_400_000, "1 d"), (86_400_001, "86400001 ms")],
)
def test_a_duration_is_told_whole(span_ms: int, told: str) -> None:
    assert duration(span_ms) == told


# --- Mermaid ------------------------------------------------------------------------------------------------------------


def awkward() -> Graph:
    """Names and summaries that no flow file lets through, and then some."""
    nodes = [Node(name, "STREAM" if number % 2 else "FILTER", name) for number, name in enumerate(AWKWARD)]
    return Graph("drawn", tuple(nodes), tuple(Edge(one.name, other.name) for one, other in pairwise(nodes)))


def test_mermaid_keeps_names_out_of_its_syntax() -> None:
    lines = mermaid(awkward()).splitlines()
    node = re.compile(r'    n\d+(\[\("[^"]*"\)\]|\("[^"]*"\)):::(stream|processor)')
    edge = re.compile(r'    n\d+ (-->|-\.->)(\|"[^"]*"\|)? n\d+')
    assert lines[0] == "flowchart LR"
    assert [line for line in lines[2:-2] if not (node.fullmatch(line) or edge.fullmatch(line))] == []
    labels = "".join(re.sub(r"</?b>|<br/>|#\d+;", "", found) for line in lines for found in re.findall(r'"([^"]*)"', line))
    assert not set(labels) & set("<>[]{}#;|`\\&")


def test_mermaid_entity_codes_give_the_name_back() -> None:
    line = next(line for line in mermaid(awkward()).splitlines() if "{" in line or "#123;" in line)
    label = re.sub(r"#(\d+);", lambda found: chr(int(found[1])), line.split('"')[1])
    assert label == 'a "b" [c] (d) {e}'


def test_mermaid_draws_each_kind_of_edge_in_its_own_way() -> None:
    spec = linked(flow(keep("f", "in", "out", "DEAD_LETTER")), "f.late")
    lines = mermaid(graph_of(spec)).splitlines()
    assert [line.strip() for line in lines if "->" in line] == [
        "n0 --> n1",
        "n1 --> n2",
        'n1 -.->|"late"| n3',
        "n3 --> n4",
        "n1 -.-> n5",
    ]
    assert "    linkStyle 4 stroke-dasharray:1 4" in lines


def test_a_long_text_loses_its_middle() -> None:
    assert shortened("short", 5) == "short"
    assert shortened("a" * 50 + "z" * 50, 10) == "aaaaaa…zzz"


# --- layout -------------------------------------------------------------------------------------------------------------


def overlapping(boxes: list[Box], gap: float = 0.0) -> Iterator[tuple[Box, Box]]:
    for one, other in combinations(boxes, 2):
        apart = one.right <= other.x or other.right <= one.x
        apart = apart or one.bottom + gap <= other.y + 1e-6 or other.bottom + gap <= one.y + 1e-6
        if not apart:
            yield one, other


def through_boxes(layout: Layout) -> Iterator[tuple[float, Box]]:
    for route in layout.routes:
        for lane in route:
            for box in layout.boxes.values():
                if lane.left < box.right and box.x < lane.right and box.y < lane.y < box.bottom:
                    yield lane.y, box


@pytest.mark.parametrize("seed", range(12))
def test_no_box_touches_another_and_no_edge_runs_through_one(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"n{i}" for i in range(40)]
    sizes = {name: (chance.uniform(80, 260), chance.choice((46.0, 56.0, 74.0))) for name in names}
    edges = [(names[a], names[b]) for a, b in (sorted(chance.sample(range(40), 2)) for _ in range(55))]
    layout = lay_out(sizes, edges)
    assert list(overlapping(list(layout.boxes.values()), GAP)) == []
    assert list(through_boxes(layout)) == []
    assert all(layout.boxes[source].right < layout.boxes[target].x for source, target in edges)
    assert all(box.x >= 0 and box.right <= layout.width for box in layout.boxes.values())
    assert all(box.y >= -1e-6 and box.bottom <= layout.height + 1e-6 for box in layout.boxes.values())


def test_an_edge_goes_from_box_to_box_without_a_jump_backwards() -> None:
    layout = lay_out(dict.fromkeys("abcd", (100, 50)), [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")])
    lanes = layout.routes[3]
    assert (lanes[0].left, lanes[-1].right) == (layout.boxes["a"].right, layout.boxes["d"].x)
    assert all(one.right <= other.left for one, other in pairwise(lanes))


def test_edges_that_need_not_cross_do_not() -> None:
    layout = lay_out(dict.fromkeys("abcxyz", (100, 50)), [("a", "z"), ("b", "y"), ("c", "x")])
    heights = [(layout.boxes[source].y, layout.boxes[target].y) for source, target in ("az", "by", "cx")]
    assert all(one[1] < other[1] for one, other in pairwise(sorted(heights)))


def test_a_chain_is_drawn_on_one_level() -> None:
    layout = lay_out(dict.fromkeys("abcde", (100, 50)), list(pairwise("abcde")))
    assert len({round(box.y, 6) for box in layout.boxes.values()}) == 1


# --- SVG ----------------------------------------------------------------------------------------------------------------


def drawn(graph: Graph) -> ElementTree.Element:
    return ElementTree.fromstring(svg(graph))


def rectangles(picture: ElementTree.Element) -> list[Box]:
    """The processors' boxes and the streams' cylinders of a drawing."""
    cards = [e for e in picture.iter(f"{SVG}rect") if e.get("class") == "processor"]
    found = [Box(*(float(e.attrib[key]) for key in ("x", "y", "width", "height"))) for e in cards]
    for path in (e.attrib["d"] for e in picture.iter(f"{SVG}path") if e.get("class") == "stream"):
        x, top, foot = (float(n) for n in re.findall(r"[\d.]+", path)[:3])
        right = float(path.split()[-3])
        found.append(Box(x, top - 6, right - x, foot - top + 12))
    return found


def test_thirty_processors_are_drawn_apart_and_inside_the_picture() -> None:
    picture = drawn(graph_of(thirty()))
    boxes = rectangles(picture)
    _, _, width, height = (float(n) for n in picture.attrib["viewBox"].split())
    assert len(boxes) == 30 + 3 + 7 + 1
    assert list(overlapping(boxes)) == []
    assert all(box.x >= 0 and box.right <= width and box.y >= 0 and box.bottom <= height for box in boxes)


def test_the_same_flow_is_drawn_the_same_in_every_process() -> None:
    code = (
        "import sys, random; sys.path.insert(0, sys.argv[1]);"
        "from test_graph import thirty, graph_of, svg, mermaid; print(mermaid(graph_of(thirty())) + svg(graph_of(thirty())))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    texts = {
        subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout for seed in "12"
    }
    assert len(texts) == 1


def test_a_picture_holds_every_name_and_is_valid_xml() -> None:
    picture = drawn(awkward())
    hovers = [e.text or "" for e in picture.iter(f"{SVG}title")]
    for name in ("end", 'a "b" [c] (d) {e}', "日本語 <b>&amp;", "x" * 300):
        assert any(hover.startswith(name) for hover in hovers)


def test_a_picture_loads_nothing_and_can_be_read_aloud() -> None:
    text = svg(graph_of(linked(flow(keep("f", "in", "out")), "f.late")))
    picture = ElementTree.fromstring(text)
    assert picture.get("role") == "img"
    assert picture.attrib["aria-labelledby"].split() == [picture[0].get("id"), picture[1].get("id")]
    assert picture[0].text == "Flow drawn"
    assert picture[1].text == "FILTER f (true) reads in; to out. FILTER last (true) reads the late events of f; to end."
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script|@import|href", text)


def test_ports_and_dead_letters_have_lines_of_their_own() -> None:
    spec = linked(flow(keep("f", "in", "out", "DEAD_LETTER"), keep("g", "in", "out", "SKIP")), "g.errors")
    lines = [e.attrib["class"] for e in drawn(graph_of(spec)).iter(f"{SVG}path") if e.attrib["class"].startswith("edge")]
    assert lines.count("edge errors") == 1
    assert "edge dead" in lines


def test_dead_letters_that_are_read_again_are_drawn() -> None:
    picture = drawn(graph_of(flow(keep("f", "_dead_letters", "out", "DEAD_LETTER"))))
    assert [e.text for e in picture.iter(f"{SVG}text")].count("_dead_letters") == 2


def test_texts_are_measured_and_fitted() -> None:
    assert text_width("mmmm", 10) > text_width("iiii", 10) * 2
    assert text_width("日本", 10) > 20
    assert text_width("e\u0301", 10) == text_width("e", 10)
    long = fitted("delayed_departures_of_all_carriers_in_every_airport", 13, 100)
    assert "…" in long
    assert text_width(long, 13) <= 100


# --- the command --------------------------------------------------------------------------------------------------------

FLOW = """
processors:
  - processor_name: f
    processor_type: FILTER
    source_stream_id: in
    target_stream_id: out
    processing_logic: {filter_expression: payload.x > 1}
"""


def esb(*arguments: str, error: bool = False) -> str:
    result = CliRunner().invoke(cli, ["graph", *arguments])
    if error:
        assert isinstance(result.exception, BusError)
        return result.exception.message
    assert result.exception is None, result.exception
    return result.stdout


def test_the_command_prints_mermaid_or_svg_and_makes_no_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flow.yaml").write_text(FLOW)
    assert esb("flow.yaml").startswith("flowchart LR\n")
    assert ElementTree.fromstring(esb("flow.yaml", "--format", "svg")).tag == f"{SVG}svg"
    assert [path.name for path in tmp_path.iterdir()] == ["flow.yaml"]


def test_the_suffix_of_the_output_says_what_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    for name, start in (("flow.svg", "<svg "), ("flow.mmd", "flowchart LR")):
        assert esb(str(tmp_path / "flow.yaml"), "--output", str(tmp_path / name)) == ""
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    assert "none.yaml: there is no such file" in esb(str(tmp_path / "none.yaml"), error=True)
    told = esb(str(tmp_path / "flow.yaml"), "--output", str(tmp_path / "no" / "f.svg"), error=True)
    assert "cannot be written: No such file or directory" in told
