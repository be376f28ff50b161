"""Pods: in this process, in processes of their own, led step by step or running free.

- `protocol.py`: what every fleet that is led through a schedule offers
- `own_modules.py`: a pod's own copy of the modules in which its target keeps state
- `inline.py`: pods in this process, every actor a greenlet
- `processes.py` (the parent's side) and `pod.py` (the child's): pods as processes
- `stepped.py`: pods as processes, led step by step
- `guarded.py`: what goes with this process however it ends
"""
