"""What people and CI use: the command line and the functions behind it.

- `cli.py`: the table of commands and how their errors are told; `commands/`: one file for each group of them
- `options.py`: options that several commands share; `show.py`: what they print, and how they end
- `api.py`: the same from Python; `names.py`: what has a short name
- `workers.py`: explores many cells at once, on all cores or on the workers of a Dask scheduler
- `campaign.py`: explores a cell and replays counterexamples; `expected.py`: what a target is known to violate
- `runs.py`: the result form and the run's folder
- `counterexample.py`, `timeline.py`: a violated schedule as a file and as text
- `pytest_plugin.py`: explorations and counterexamples as tests
- `reproduce.py`, `images.py`, `moments.py`: the bug and its fix on real processes
"""
