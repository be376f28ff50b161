"""Load tests with Locust: `locust -f loadtests/locustfile.py`. Nothing outside this package imports locust.

Read in this order: `redis_user` (one event an operation), `latency` (microseconds, corrected), `tally` (what was
lost), `targets` (what is driven, and what it must keep), `fleet` (its pods in this process), `locustfile` (the
users), `shapes`, `slo` (the limits), `session` (one process's part of a run; `arguments`, `servers`, `embedded`
are what it starts with), `verdict` (a run's end), `page` (the tab).
"""
