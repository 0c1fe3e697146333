"""The C2SP transparency-log formats and their verification: pure, standard library and cryptography alone.

A lower room: the audit log writes these formats, and every party (client, node, auditor) reads and verifies them.
"""
