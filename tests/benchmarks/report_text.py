"""A report as Markdown, with its charts, from what ``report.json`` holds."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import charts
import machine
from charts import Bar, Point, shown
from targets import TARGETS

LIMITS: Final = {
    "keys": "A key costs a dictionary entry for each batch that has it and one of state, so the rate falls once the keys no "
    "longer repeat within a batch (the combiner has nothing to combine), and again with the results: one for each key of a "
    "window, some tens of microseconds each.",
    "keys-memory": "The peak of the whole process, over that with one key: the state, the results of the one window "
    "that closes at the end, and the events in flight. Workers hold their share of the keys.",
    "windows": "A window that closes makes results, a transaction and work for each key group; many small windows are "
    "limited by that.",
    "event-size": "Small events are limited by what is done for each event in Python, large ones by bytes: JSON, LZ4 "
    "and the disk.",
    "partitions": "All partitions of the embedded log are in one file. More of them make smaller batches for the same "
    "events, and a watermark for each.",
    "workers": "Reading is shared out by partitions and keyed work by key groups. Writers of the embedded log take "
    "turns, and there are no more cores than the machine has.",
    "streams": "The writer's transactions are the same; with many streams each gets smaller batches, which compress less well.",
    "groups": "The groups share the process and the batches' decoding is done for each of them, so that the sum stays "
    "about the same.",
    "aggregate": "Reading, decoding and folding each event: linear in their number. Snapshots bound it, and are turned off here.",
    "history": "Rows go into DuckDB in Arrow batches of up to 10,000; a small load is mostly the opening of the file.",
    "recovery": "The start of a Python process (half a second), then reading and unpickling the snapshots of all keys.",
    "latency": "Until the machine is full, the time is that of group commits and wake-ups: three processes, two "
    "commits. Then a queue grows, and the time with it: that is the saturation.",
    "idle": "A worker rests once it has had nothing to read for a tenth of a second, and wakes up four times a second.",
}
"""What limits each law, as profiles show it."""
_COLUMNS: Final = ("figure", "median", "unit", "lowest to highest", "x baseline", "start, s", "CPU s / million", "peak MB")


def charts_of(report: Mapping[str, Any]) -> dict[str, str]:
    """The charts by name, as SVG."""
    made = {}
    for section in _sections(report):
        rows = [f for f in _in(report, section) if f["unit"] == "events/s"]
        if len(rows) > 1:
            bars = [Bar(f["name"], f["median"], f["low"], f["high"], f["is_ours"]) for f in rows]
            made[_slug(section)] = charts.bars(section, "events/s", bars)
    for group in dict.fromkeys(law["group"] for law in report["laws"].values()):
        laws = {name: law for name, law in report["laws"].items() if law["group"] == group and len(law["points"]) > 1}
        if not laws:
            continue
        series = {name: _line(law["points"]) for name, law in laws.items()}
        first = next(iter(laws.values()))
        is_log = first["y_name"] not in ("events/s", "rows/s") or group == "event-size"
        if group == "latency":
            points = first["points"]
            series = {
                "p50": series.pop("latency"),
                **{name: [Point(p["x"], *[p["more"][name]] * 3) for p in points] for name in ("p99", "p99.9")},
            }
        made[group] = charts.lines(
            f"{first['y_name']} by {first['x_name']}", first["x_name"], first["y_name"], series, log_y=is_log
        )
    if memory := _memory_per_key(report):
        title = "memory by keys: peak of a process, over that with one key"
        made["keys-memory"] = charts.lines(title, "keys", "MB", {"sum": memory}, log_y=True)
    return made


def markdown(report: Mapping[str, Any], images: str = "", heading: str = "#") -> str:
    """The report. ``images`` is put in front of the names of charts; the first heading is a ``heading``."""
    drawn = charts_of(report)
    parts = [f"{heading} Figures of a {report['mode']} run", _about(report), f"{heading}# Targets", _targets(report)]
    for section in _sections(report):
        parts += [f"{heading}# {section}"]
        if _slug(section) in drawn:
            parts.append(f"![{section}]({images}{_slug(section)}.svg)")
        parts.append(_table(_COLUMNS, (_row(f) for f in _in(report, section))))
    parts += [f"{heading}# Scaling", "Each point is a process of its own."]
    for group in dict.fromkeys(law["group"] for law in report["laws"].values()):
        parts += _law(report, group, drawn, images, f"{heading}##")
    if report["left_out"]:
        parts += [f"{heading}# Left out", "\n".join(f"- {line}" for line in report["left_out"])]
    return "\n\n".join(parts) + "\n"


def _about(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in report["machine"]["versions"].items())
    java = f", {report['machine']['java']}" if report["machine"]["java"] else ""
    peers = ", ".join(report["peers"])
    sizes = ", ".join(
        f"{name} {' and '.join(f'{n:,}' for n in events)}" for name, events in report["events"].items() if any(events)
    )
    when = f"Measured at {report['machine']['measured_at']} in {report['took_s'] / 60:.1f} minutes"
    text = f"{machine.told(report['machine'])}. {versions}{java}. Peers: {peers or 'none'}. {when}; events: {sizes}."
    if report["machine"]["load_before"][0] > report["machine"]["cores"] / 2:
        text += (
            " **The machine was busy with other work: rates are a part of what it can do, their spread is wide, and ratios of "
            "runs with one round can be far off. CPU seconds are nearer to the truth.**"
        )
    for again in report.get("again", []):
        when, load = again["measured_at"], again["load_before"][0]
        text += f"\n\nMeasured again at {when}, load {load} before: {', '.join(again['names'])}."
    return text


def _targets(report: Mapping[str, Any]) -> str:
    rows, explained = [], []
    for target in TARGETS:
        found = next((t for t in report["targets"] if t["name"] == target.name), None)
        sign = "<=" if target.is_most else ">="
        limit = f"{sign} {target.limit:,g} {target.unit}"
        if found is None or found["value"] is None:
            rows.append((target.name, limit, "not measured", "", ""))
            continue
        value = f"{found['value']:,.0f}" if found["value"] >= 1000 else f"{found['value']:.2f}"
        met = {True: "yes", False: "**no**", None: "too small to judge"}[found["is_met"]]
        rows.append((target.name, limit, value, found["at"], met))
        if found["is_met"] is False:
            profile = "\n".join(found["profile"])
            explained.append(f"**{target.name}**, not met: {value} {target.unit}. {target.reason}")
            explained += [f"```text\n{profile}\n```"] if profile else []
    return "\n\n".join([_table(("target", "at least or at most", "measured", "at", "met"), rows), *explained])


def _law(report: Mapping[str, Any], group: str, drawn: Mapping[str, str], images: str, heading: str) -> list[str]:
    laws = {name: law for name, law in report["laws"].items() if law["group"] == group}
    parts = [f"{heading} {group}", LIMITS[group]]
    if group in drawn:
        parts.append(f"![{group}]({images}{group}.svg)")
    for name, law in laws.items():
        more = list(dict.fromkeys(key for point in law["points"] for key in point["more"] or {}))
        columns = (law["x_name"], f"{name}: {law['y_name']}", "lowest to highest", "CPU s / million", "peak MB", *more)
        rows = [
            (
                f"{p['x']:,}",
                shown(p["median"]),
                f"{shown(p['low'])} to {shown(p['high'])}",
                _maybe(p["cpu_s_per_million"]),
                _maybe(p["peak_mb"]),
                *(_maybe((p["more"] or {}).get(key)) for key in more),
            )
            for p in law["points"]
        ]
        parts.append(_table(columns, rows))
    if group == "keys" and (per_key := _bytes_per_key(report)):
        parts += [f"Memory per key: {per_key}.", LIMITS["keys-memory"], f"![memory by keys]({images}keys-memory.svg)"]
    return parts


def _memory_per_key(report: Mapping[str, Any]) -> list[Point]:
    points = report["laws"].get("keys", {}).get("points", [])
    if not points or points[0]["x"] != 1:
        return []
    base = points[0]["peak_mb"]
    return [Point(p["x"], *[p["peak_mb"] - base] * 3) for p in points[1:] if p["peak_mb"] - base > 1]


def _bytes_per_key(report: Mapping[str, Any]) -> str:
    found = _memory_per_key(report)
    return f"{found[-1].y * (1 << 20) / found[-1].x:,.0f} bytes at {found[-1].x:,.0f} keys" if found else ""


def _sections(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(f["section"] for f in report["figures"]))


def _in(report: Mapping[str, Any], section: str) -> list[Mapping[str, Any]]:
    return [f for f in report["figures"] if f["section"] == section]


def _row(f: Mapping[str, Any]) -> tuple[str, ...]:
    ratio = "" if f["ratio"] is None else f"{f['ratio']:.2f} ({f['baseline']})"
    spread = f"{shown(f['low'])} to {shown(f['high'])}"
    costs = (_maybe(f["start_s"]), _maybe(f["cpu_s_per_million"]), _maybe(f["peak_mb"]))
    return (f["name"], shown(f["median"]), f["unit"], spread, ratio, *costs)


def _maybe(value: float | None) -> str:
    return "" if value is None else shown(value)


def _line(points: Iterable[Mapping[str, Any]]) -> list[Point]:
    return [Point(p["x"], p["median"], p["low"], p["high"]) for p in points]


def _slug(section: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in section.lower()).strip("-")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)
