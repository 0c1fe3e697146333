"""The second door: Arrow Flight SQL on the listener of callers, into the same hall as our own service."""
