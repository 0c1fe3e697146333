"""The ``tidegate`` command: one module per noun. Data goes to stdout; messages and progress go to stderr."""
