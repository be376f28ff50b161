"""What went wrong in a run, and what that makes of it. Pure functions over a finished run.

- `findings.py`: one thing that went wrong, and all that one run shows
- `run.py`: a finished run as checks see it
- `linear.py`: whether a history of single objects is linearizable; `operations.py`: such a history from JSON lines
"""
