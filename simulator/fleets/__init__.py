"""Pods: in this process, in processes of their own, led step by step or running free.

- `protocol.py`: what every fleet that is led through a schedule offers, and what the gates of its pods share
- `own_modules.py`: a pod's own copy of the modules in which its target keeps state
- `inline.py`: pods in this process, every actor a greenlet
- `processes.py` (the parent's side) and `pod.py` (the child's): pods as processes
- `gates.py`: what stands before the steps of a pod in a process of its own
- `stepped.py`: pods as processes, led step by step
- `free.py`: pods as processes that nobody leads; `driver.py`: their clients, in one thread; `chaos.py`: their faults
- `pipes.py`: what goes over a pod's pipe, and how
- `guarded.py`: what goes with this process however it ends
"""
