"""Allow `python -m inspector.cli` as another way to run the command line."""

from inspector.cli import main

main()
