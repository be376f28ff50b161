"""The tab on Locust's page: verdicts, breaches, the generator's health, and percentiles in microseconds."""

from __future__ import annotations

import json
from typing import Any

from podrace.simulator.errors import PodraceError

KEY = "podrace"
LATENCIES = {"p50_us": "p50 (µs)", "p90_us": "p90 (µs)", "p99_us": "p99 (µs)", "p99_9_us": "p99.9 (µs)"}
COLUMNS = {"name": "What", "count": "Count", "failed": "Failed", **LATENCIES, "max_us": "Max (µs)"}
LABELS = {"raw": "", "corrected": ", from the intended start", "failed": ", failed"}


def add_tab(web_ui: Any, master: Any) -> None:
    """Add the tab; its rows come with Locust's own statistics, which the page asks for every two seconds.

    What is wrong in the form is refused before Locust takes it, as Locust refuses what it does not know itself.
    """
    structure = [{"key": key, "title": title} for key, title in COLUMNS.items()]
    web_ui.template_args["extended_tabs"] = [{"title": "Microseconds and losses", "key": KEY}]
    web_ui.template_args["extended_tables"] = [{"key": KEY, "structure": structure}]

    @web_ui.app.before_request  # type: ignore[untyped-decorator]
    def refuse() -> Any:
        from flask import jsonify, request
        from werkzeug.datastructures import ImmutableMultiDict

        if not request.path.endswith("/swarm"):
            return None
        try:
            master.check_form(request.form)
        except PodraceError as error:
            return jsonify({"success": False, "message": str(error), "host": master.environment.host})
        form = [(name, value) for name, value in request.form.items(multi=True) if name != "host"]
        # Locust must not see a password: it shows the host to everybody
        form.append(("host", master.environment.host))
        request.form = ImmutableMultiDict(form)
        return None

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def extend(response: Any) -> Any:
        from flask import request

        if request.path.endswith("/stats/requests") and response.is_json:
            document = {**response.json, "extended_stats": [{"key": KEY, "data": table_rows(master)}]}
            response.set_data(json.dumps(document))
        return response


def table_rows(master: Any) -> list[dict[str, Any]]:
    """A row for each thing to be said, and for each operation and kind of latency.

    The page sorts by name: the brackets, numbered, bring what was lost to the top.
    """
    said = [f"(1 verdict) {cell.scenario}: {cell.verdict}, expected {cell.expected}" for cell in master.cells]
    rows: list[dict[str, Any]] = []
    for scenario, counted in sorted(master.counts().items()):
        for kind in ("lost", "duplicated", "misreported", "stuck"):
            if kind == "lost" or counted.get(kind):
                rows.append({"name": f"({kind}) {scenario}", "count": counted.get(kind, 0)})
    breaches = master.breaches(running=not master.cells) if master.folder else []
    said += [f"(2 limit exceeded) {breach}" for breach in breaches]
    said += [f"(3 {line}".replace(":", ")", 1) for line in master.generator.document(master.duration_s())["says"]]
    said += [f"(4 run folder) {master.folder}"] if master.folder else []
    rows += [{"name": text} for text in said]
    for name in master.latencies.names:
        failed = master.latencies.summary(name, "failed")["count"]
        for kind in master.latencies.kinds(name):
            rows.append({"name": f"{name}{LABELS[kind]}", "failed": failed, **master.latencies.summary(name, kind)})
    return rows
