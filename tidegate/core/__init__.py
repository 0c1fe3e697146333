"""The words of the domain: frozen values, errors, names, limits, canonical bytes. No I/O, no clock of its own."""
