from __future__ import annotations

from pathlib import Path

import pytest

from policies.bundle import load
from policies.engines import EmbeddedEngine
from tidegate.core.errors import Code, TidegateError

HEAD = "package tidegate.overlay.tax\n\nimport rego.v1\n\n"
BODY = "restrictions := {r.ref: {} | some r in input.resources}\n"


def write(folder: Path, text: str, name: str = "tax.rego") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_revision_names_exactly_what_the_engines_read(tmp_path: Path) -> None:
    plain = load()
    with_overlay = load([write(tmp_path, HEAD + BODY)])
    changed = load([write(tmp_path, HEAD + BODY + "# a comment\n")])
    words = load(vocabulary={"limits": {"rows_max": 1, "group_size_min": 2, "keys_max": 0}})
    assert plain.revision == load().revision
    assert len({plain.revision, with_overlay.revision, changed.revision, words.revision}) == 4
    assert with_overlay.overlays == ("tax",)
    assert with_overlay.data["tidegate"]["bundle"] == {"revision": with_overlay.revision, "overlays": ["tax"]}


def test_tests_are_no_part_of_the_bundle(tmp_path: Path) -> None:
    write(tmp_path, HEAD + BODY)
    write(tmp_path, "package tidegate.overlay.tax_test\n", "tax_test.rego")
    assert not [name for name in load([tmp_path]).modules if "_test" in name]


def test_two_overlays_of_one_name_and_file_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + BODY)
    with pytest.raises(TidegateError) as caught:
        load([path, path])
    assert caught.value.code is Code.CONFIG_INVALID


@pytest.mark.parametrize(
    "text",
    [
        "package tidegate.exchange\n\nallow := true\n",
        "package tidegate.overlay\n",
        "package tidegate.overlay.tax.deeper\n",
        "package tidegate.bundle\n",
        "package system.authz\n",
        'package tidegate["overlay"]["tax"]\n',
        "# package tidegate.overlay.tax\npackage tidegate.exchange\n",
        "package tidegate.overlay.tax\npackage tidegate.exchange\n",
        "",
        HEAD + 'restrictions := http.send({"method": "get", "url": "http://x"})\n',
        HEAD + 'restrictions := http . send({"method": "get", "url": "http://x"})\n',
        HEAD + 'restrictions := http["send"]({})\n',
        HEAD + "restrictions := {r.ref: {} | some r in input.resources; time.now_ns() > 0}\n",
        HEAD + 'restrictions := opa.runtime()["env"]\n',
        HEAD + 'x := rand.intn("a", 3)\n',
        HEAD + 'x := net.lookup_ip_addr("h")\n',
        HEAD + 'x if print("v")\n',
    ],
)
def test_overlay_that_could_do_more_than_tighten_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TidegateError) as caught:
        load([write(tmp_path, text)])
    assert caught.value.code is Code.CONFIG_INVALID
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("data", [b"\xff\xfe", b"package tidegate.overlay.tax\n" + b"#" * (1 << 20)])
def test_overlay_that_cannot_be_read_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tax.rego"
    path.write_bytes(data)
    with pytest.raises(TidegateError) as caught:
        load([path])
    assert caught.value.code is Code.CONFIG_INVALID


def test_folder_without_rules_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TidegateError):
            load([place])


def test_rules_that_do_not_compile_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(TidegateError) as caught:
        EmbeddedEngine(load([write(tmp_path, HEAD + "restrictions := {{{\n")]))
    assert caught.value.code is Code.CONFIG_INVALID
