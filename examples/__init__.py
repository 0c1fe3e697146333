"""Examples that run: a whole exchange on this machine, with real processes, certificates, policies and log."""
