"""Reports with pictures, made from the files of any mix of runs.

    build.py      paths in, one report out: html, markdown, junit or svg; the way in
    results.py    reads run folders, Locust results and benchmark files; KINDS is the table of them
    records.py    what was read: runs, cells, operations, what was skipped
    benchmarks.py ratios to the floor, and the claims
    rows.py       which events of a history are shown; what they say, the history says itself
    timeline.py   a history as a space-time diagram
    charts.py     percentile curves, rate against p99, ratios to the floor
    matrix.py     failure modes by targets, what their words mean, and the verdict in one line
    text.py       the same as Markdown and as JUnit XML
    drawing.py    Jinja2 over *.j2 and svg.css: how it is drawn
    safety.py     what may be read, and what no output may hold

It reads files, nothing else: no other room of this repository is imported.
"""
