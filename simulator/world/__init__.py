"""The world as a pod sees it, with a gate before every step.

- `steps.py`: what a step is, what may become of it, and the gate that stands before it
- `client.py`: the gate in redis-py's connection; `led.py`: commands that block or draw at random, as they are sent
- `services.py`: the gate before every call of a service that is not Redis
- `libraries.py`: the clock, the randomness and the threads of libraries that bring their own
- `locks.py`: locks between the actors of one pod
- `clock.py`: the one clock of a fleet and its server, on which every deadline lies
- `footprints.py`: which keys a command touches; `scripts.py`: which keys a script can touch
- `trace.py`: which orders are equivalent; `foreign.py`: what a pod must not send
- `view.py`: a private view of what can be imported; `plain/`: what code gets in it that knows of no harness
- `collector.py`: Python's cycle collector, less often
- `pods.py`: a pod's environment, out of all of these

The same wrappers serve real processes under the real clock (the gate only records), real processes whose
every step a scheduler lets go, and pods inside this process. Which of these it is, is the gate's business.
"""
