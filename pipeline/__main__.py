"""``python -m pipeline`` is the ``scasml`` command."""

from pipeline.cli import main

main()
