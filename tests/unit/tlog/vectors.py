"""The vectors of the reference: entry i is ``{"n":i}``, fixed keys, fixed names."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORIGIN = "broker.example/audit"
WITNESS = "health.example/witness"
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
LOG_VKEY = "broker.example/audit+ba46f2a9+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
WITNESS_VKEY = "health.example/witness+57bb6ac4+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
COSIGNED_AT_S = 1_700_000_000
ROOTS = {
    1: "+UBwq/0toL9ykC6xOoCOeU+VTZ4nRcaCoVj27Q1KwDY=",
    2: "O63IBTfwKeG7dygNyFIDzy7ZdI3I9XEjD8ulwybJEGg=",
    3: "LP73YnWX4AtWSXV3Stco7yEHBnWfym1kE4xt/By/LNo=",
    7: "ju+6vaTwi1RItNuwTrHrzyzYa/Nn0cD+wyFIgqkbe54=",
    256: "VnQwAQGAjJawsusbRIYV+xyYZQslg7Z5HPTHZJGKgj0=",
    257: "msTFtNgv0xNuo4TOXwsZglGXtH5emq6sGNJNuJuRAxA=",
    70_000: "Bgv+86JoCgNF32/SwcmYtPJl1lKSbMhDoRdDYwUbFUc=",
}
INCLUSION_5_OF_7 = (
    "Z8vzSda05Mr0MKlnUcpTIhRBTC+Mn3xWervD5S8t85E=",
    "twd0fosJ36rGfSxIXhIv1/ZKN3lC+V+dsHff086jEnM=",
    "vQBwrL3GeaJM9EYVhBSD+/zBiroArk2+KgxUrybL2fo=",
)
CONSISTENCY_3_TO_7 = (
    "PR3ndt8IbBrp9wSdK7DAR1rRQYX5h+Bk6NENyy20oyI=",
    "10otHyrxwcrWxeiob8hpFi59HqAecpq/8XhR0QlI+ZQ=",
    "O63IBTfwKeG7dygNyFIDzy7ZdI3I9XEjD8ulwybJEGg=",
    "LdgcWRHnNMaadFY22ZkAO1Qh7iBxBzbI0iRUtULajVw=",
)
CHECKPOINT_257 = (
    "broker.example/audit\n"
    "257\n"
    "msTFtNgv0xNuo4TOXwsZglGXtH5emq6sGNJNuJuRAxA=\n"
    "\n"
    "— broker.example/audit "
    "ukbyqcUl+rLdTImAa9UuiFQMAwV6I9iYmpJCymeOMot88wbhv5cOtdTzywZdYFWbAtm/y7zijbSg6HDVgbFclvgVaQk=\n"
    "— health.example/witness V7tqxAAAAABlU/EAFIDKqf9l90HhA4kjGRxx0yO2XsKAE8VLk0F2O3GQmnd3H9uZVnSA9I+rMgnjRIF4NWMF0ZH/"
    "o3ISBUgD8r+rAg==\n"
).encode()


def entry(index: int) -> bytes:
    return b'{"n":%d}' % index


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()
