"""What people and CI use: the command line and the functions behind it.

- `cli.py`: the commands; `options.py`: options that several commands share; `show.py`: what they print
- `api.py`: the same from Python; `names.py`: what has a short name
- `campaign.py`: explores cells and replays counterexamples; `expected.py`: what a target is known to violate
- `runs.py`: the result form and the run's folder
- `counterexample.py`, `timeline.py`: a violated schedule as a file and as text
- `reproduce.py`, `images.py`, `moments.py`: the bug and its fix on real processes
"""
