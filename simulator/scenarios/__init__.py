"""What is run: calls, faults, and what a kind of service promises.

- `model.py`: Call, Ref, Workload, Scenario
- `shape.py`: whether a scenario of a user's own has the shape of one
- `faults.py`: what the harness does to a fleet on purpose, one small class a fault
- `uploads.py`: the workload of the image uploads: its verbs, how a run is brought to rest
- `upload_checks.py`: what that workload promises, as checks
- `catalogue.py`: the failure modes of uploads, one entry each
- `upload_clients.py`: users of the uploads workload, for free-running fleets
"""
