"""What happened in a run.

- `events.py`: events, and how they are written and read as JSON lines
- `outcome.py`: how a call of a pod's method ended
"""
