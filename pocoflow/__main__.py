"""`python -m pocoflow` is the same as `pocoflow`."""

from pocoflow.cli.main import main

main()
