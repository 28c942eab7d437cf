"""`python -m truing` is the command `truing`."""

from truing.cli import main

main()
