"""Makes cross-pod races happen on purpose, every time, on one laptop.

The four rooms stand beside this file: `podrace.reference` (the service under test), `podrace.simulator` (drives
pods, finds the losing schedule, judges it), `podrace.loadtests` (Locust) and `podrace.reports`.
"""
