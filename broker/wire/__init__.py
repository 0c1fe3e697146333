"""The broker's wire modules: the only ones that read generated messages."""
