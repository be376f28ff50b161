"""The tab on Locust's page: percentiles in microseconds, and what was lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from podrace.loadtests.arguments import check_numbers
from podrace.simulator.errors import UsageError

KEY = "podrace"
COLUMNS = {
    "name": "Operation",
    "count": "Count",
    "failed": "Failed",
    "median": "p50 (µs)",
    "ninety": "p90 (µs)",
    "slow": "p99 (µs)",
    "slowest": "p99.9 (µs)",
    "maximum": "Max (µs)",
}


def add_tab(web_ui: Any, rows: Callable[[], list[dict[str, Any]]]) -> None:
    """Add the tab; its rows come with Locust's own statistics, which the page asks for every two seconds.

    A number out of its range is refused where Locust refuses what it does not know itself.
    """
    structure = [{"key": key, "title": title} for key, title in COLUMNS.items()]
    web_ui.template_args["extended_tabs"] = [{"title": "Microseconds and losses", "key": KEY}]
    web_ui.template_args["extended_tables"] = [{"key": KEY, "structure": structure}]

    @web_ui.app.before_request  # type: ignore[untyped-decorator]
    def refuse() -> Any:
        from flask import jsonify, request

        try:
            check_numbers(request.form)
        except UsageError as error:
            return jsonify({"success": False, "message": str(error), "host": web_ui.environment.host})
        return None

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def extend(response: Any) -> Any:
        from flask import request

        if request.path.endswith("/stats/requests") and response.is_json:
            document = {**response.json, "extended_stats": [{"key": KEY, "data": rows()}]}
            response.set_data(json.dumps(document))
        return response


def table_rows(latencies: Any, counts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each scenario's losses, for what else went wrong, and for each operation, corrected for omission.

    The page sorts by name: the brackets bring what was lost to the top.
    """
    rows: list[dict[str, Any]] = []
    for scenario, counted in sorted(counts.items()):
        for kind in ("lost", "duplicated", "misreported"):
            if kind == "lost" or counted.get(kind):
                rows.append({"name": f"({kind}) {scenario}", "count": counted.get(kind, 0)})
    for name in latencies.names:
        summary = latencies.summary(name, "corrected")
        rows.append(
            {
                "name": name,
                "count": summary["count"],
                "failed": latencies.errors[name].total() if name in latencies.errors else 0,
                "median": summary["p50_us"],
                "ninety": summary["p90_us"],
                "slow": summary["p99_us"],
                "slowest": summary["p99_9_us"],
                "maximum": summary["max_us"],
            }
        )
    return rows
