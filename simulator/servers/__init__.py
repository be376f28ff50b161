"""The servers of a run.

- `connection.py`: the one way to a client, our own server, foreign servers
- `embedded.py`: a valkey-server of our own; `guardian.py`: what removes it with this process
- `probe.py`: the harness's own eyes and hands on the server
- `wire.py`: commands and replies on one connection, without redis-py's own way
- `files_api/`: the local Gemini Files API
- `programs.py`: a server as a program of its own
"""
