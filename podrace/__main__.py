"""`python -m podrace`: the same as the command `podrace`."""

from podrace.simulator.app.cli import main

if __name__ == "__main__":
    main()
