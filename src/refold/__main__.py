"""`python -m refold` is the command `refold`."""

from refold.cli.main import run

if __name__ == "__main__":
    run()
