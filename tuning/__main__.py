"""`python -m tuning`."""

from tuning.cli import main

main()
