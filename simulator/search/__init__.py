"""Going through the schedules of a scenario.

- `schedule.py`: decisions, who takes them, and what is known of a step that was taken before
- `server_side.py`: what the harness does on the server for one run: keys' lives, replies of its own, damage
- `lives.py`: how long keys have to live, on the run's clock
- `pending.py`: how long entries of streams have waited, on the run's clock
- `play.py`: one schedule, from the first call to rest
- `lines.py`: the calls of a run, those to come, under way and over
- `standing.py`: where its actors stand: which steps can be taken, when others can, and which never
- `touches.py`: what steps touch, and so which events of the trace they are
- `so_far.py`: what faults may ask of it
- `chronicle.py`: writes its history
- `strikes.py`: what faults do besides steps: a pod is killed, a call cancelled, time passes
- `rest.py`: how a run is brought to rest
- `frontier.py`: what a search has before it and behind it
- `explorer.py`: all schedules within bounds, cheapest first
- `lab.py`: all that plays need: the server, clients, services, pods in this process or in their own
"""
