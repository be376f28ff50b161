"""The commands, one file for each group of them; `cli.py` has the table of all."""
