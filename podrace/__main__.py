"""The command `podrace`, and `python -m podrace`."""

import os
import signal


def main() -> None:
    """Run the command. A signal that comes during the imports ends it at once: there is nothing yet to clear up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os._exit(128 + number))
    from podrace.simulator.app.cli import main as run

    try:
        run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the exit code is known, and nothing is left to be ended


if __name__ == "__main__":
    main()
