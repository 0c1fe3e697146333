"""SQL algebra over sqlglot: admit, bind, restrict, split, render. Pure functions, picklable values, no I/O.

The broker and every node use the same functions, so that the node never has to believe the broker's text.
"""
