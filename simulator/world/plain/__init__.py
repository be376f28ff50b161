"""What code that knows of no harness gets in the place of threads, time, chance, Redis and services.

- `inside.py`: what belongs to one pod, and how whoever runs finds the pod that it is in
- `standard.py`: which modules are replaced, by what
- `threads.py`: locks, threads, queues and executors, whose waits are steps
- `small.py`: time, dates, chance, and what of the operating system tells pods apart
- `clients.py`: clients of Redis and of Gemini, which all lead to the run's own server and services
- `loop.py`: an asyncio loop that waits at gates; `aclients.py`: the asynchronous clients
- `pod.py`: a pod whose methods may be coroutine functions
- `watch.py`: what cannot be led is noticed, and ends in a message that names the place
"""
