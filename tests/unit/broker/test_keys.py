"""Keys on their way: distinct, without NULLs, sorted, within limits; and what grant and record say about them."""

from __future__ import annotations

from datetime import date
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import keys
from broker.keys import Distinct, destinations, fragment_digest, lines, pack, terms
from broker.values import FragmentReport, KeysGiven
from tidegate import ipc
from tidegate.core.decision import Constraints, Decision, ResourceDecision
from tidegate.core.errors import Code, TidegateError
from tidegate.core.grant import KeySource, KeyTerms
from tidegate.core.names import DatasetName
from tidegate.sql.model import FederatedPlan, Fragment, Reduction, RenderedSql


def gathered(*batches: pa.Array) -> Distinct:
    found = Distinct()
    found.begin(batches[0].type)
    for batch in batches:
        found.add(batch)
    return found


def values_of(chunks: tuple[bytes, ...]) -> pa.Table:
    schema, batches = ipc.read(iter(chunks))
    return pa.Table.from_batches(list(batches), schema)


@given(
    st.lists(st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=8), min_size=1, max_size=9),
    st.sampled_from([1, 3, 1 << 18]),
)
def test_keys_are_the_distinct_values_of_all_batches_in_their_order(
    batches: list[list[int | None]], unite_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "_UNITE_ROWS", unite_rows)
        check_the_keys_of(batches)


def check_the_keys_of(batches: list[list[int | None]]) -> None:
    packed = pack([gathered(*(pa.array(items, pa.int32()) for items in batches)).values()])
    assert packed is not None
    expected = sorted({item for items in batches for item in items if item is not None})
    table = values_of(packed.chunks)
    assert table.column_names == ["k"]
    assert table.column(0).to_pylist() == expected
    assert (packed.count, packed.counts) == (len(expected), (len(expected),))
    assert packed.digest == ipc.digest(packed.chunks)


def test_texts_dates_and_dictionaries_are_keys_too() -> None:
    for array, expected in (
        (pa.array(["b", None, "a", "b"]), ["a", "b"]),
        (pa.array(["b", "a", None, "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["b", "a", "b", None]).dictionary_encode(), ["a", "b"]),
        (pa.array([date(2024, 2, 1), None, date(2024, 1, 1)]), [date(2024, 1, 1), date(2024, 2, 1)]),
    ):
        packed = pack([gathered(array).values()])
        assert packed is not None
        assert values_of(packed.chunks).column(0).to_pylist() == expected


@pytest.mark.parametrize(
    "array", [pa.array([1.5]), pa.array([b"x"]), pa.array([True]), pa.array([[1]]), pa.array([None], pa.null())]
)
def test_other_types_are_no_keys(array: pa.Array) -> None:
    found = gathered(array)
    assert not found.usable
    assert found.values() is None
    assert pack([found.values()]) is None


def test_an_answer_without_rows_has_keys_none() -> None:
    packed = pack([gathered(pa.array([], pa.int64())).values()])
    assert packed is not None
    assert (packed.count, len(packed.chunks)) == (0, 1)


def test_too_many_keys_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEYS_MAX", 10)
    assert gathered(pa.array(range(10))).values() is not None
    assert gathered(pa.array(range(6)), pa.array(range(6, 11))).values() is None
    assert pack([gathered(pa.array(range(6))).values(), gathered(pa.array(range(6, 12))).values()]) is None


def test_too_many_are_noticed_before_the_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEYS_MAX", 10)
    monkeypatch.setattr(keys, "_UNITE_ROWS", 4)
    found = gathered(*(pa.array(range(start, start + 6)) for start in (0, 6, 12)))
    assert not found.usable


def test_too_many_bytes_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEYS_BYTES_MAX", 100)
    assert gathered(pa.array(["x" * 40])).values() is not None
    assert gathered(pa.array(["x" * 101])).values() is None


def test_the_keys_of_a_collections_parts_are_one_set() -> None:
    packed = pack([gathered(pa.array([3, 1])).values(), gathered(pa.array([1, 2], pa.int32())).values()])
    assert packed is not None
    assert values_of(packed.chunks).column(0).to_pylist() == [1, 2, 3]
    assert (packed.count, packed.counts) == (3, (2, 2))


def test_keys_that_do_not_fit_together_are_no_keys() -> None:
    number, text = gathered(pa.array([1])).values(), gathered(pa.array(["1"])).values()
    assert pack([number, text]) is None
    assert pack([number, None]) is None
    assert pack([number, gathered(pa.array([2**63], pa.uint64())).values()]) is None


# --- what a plan says


def fragment(name: str, member: str, *reductions: Reduction) -> Fragment:
    dataset = DatasetName(member, "data")
    return Fragment(name, member, "n", RenderedSql(f"SELECT {name}", ()), {f"r{name[1:]}": dataset}, ("c0",), False,
                    reductions=reductions)  # fmt: skip


def plan(*fragments: Fragment) -> FederatedPlan:
    return FederatedPlan(fragments, RenderedSql("SELECT 1", ()), (), ("a",), 100)


CHAIN = plan(
    fragment("f0", "air"),
    fragment("f1", "sea", Reduction("r1", "k", (("f0", "c0"),))),
    fragment("f2", "land", Reduction("r2", "k", (("f1", "c0"),))),
    fragment("f3", "air", Reduction("r3", "k", (("f1", "c0"),))),
)


def decision(**members: tuple[str, ...]) -> Decision:
    """Decide by ref: whose keys may go where; ``r0_groups`` makes a ref one of groups."""
    found: dict[str, Any] = {}
    for ref, names in members.items():
        name, _, groups = ref.partition("_")
        constraints = Constraints("aggregate" if groups else "rows", 1, "", (), 100, False, 0, names)
        found[name] = ResourceDecision(True, {}, {}, constraints)
    return Decision(True, (), MappingProxyType(found))


def test_keys_go_where_those_go_that_they_make_smaller() -> None:
    everywhere = decision(r0=("*",), r1=("*",), r2=("*",), r3=("*",))
    assert destinations(CHAIN, everywhere) == {"f0": ("land", "sea"), "f1": ("air", "land"), "f2": (), "f3": ()}


def test_only_what_the_decision_permits_is_asked_for() -> None:
    some = decision(r0=("sea",), r1=(), r2=("*",), r3=("*",))
    assert destinations(CHAIN, some) == {"f0": ("sea",), "f1": (), "f2": (), "f3": ()}
    groups = decision(r0_groups=("*",), r1=("land",), r2=("*",), r3=("*",))
    assert destinations(CHAIN, groups)["f0"] == ()


def test_the_words_of_grant_and_record_name_the_sources_members() -> None:
    assert terms(CHAIN)["f2"] == (KeyTerms("r2", "k", (KeySource("f1", "c0", "sea"),)),)
    assert terms(CHAIN)["f0"] == ()


def test_a_plan_that_would_wait_for_itself_is_refused() -> None:
    late = plan(fragment("f0", "air", Reduction("r0", "k", (("f1", "c0"),))), fragment("f1", "sea"))
    with pytest.raises(TidegateError) as caught:
        terms(late)
    assert caught.value.code is Code.INTERNAL


def test_the_digest_covers_every_word_of_a_reduction() -> None:
    one = CHAIN.fragments[1]
    base = KeyTerms("r1", "k", (KeySource("f0", "c0", "air"),))
    others = [
        (),
        (base, base),
        (KeyTerms("r2", "k", base.sources),),
        (KeyTerms("r1", "j", base.sources),),
        (KeyTerms("r1", "k", ()),),
        *((KeyTerms("r1", "k", (source,)),) for source in (
            KeySource("f9", "c0", "air"), KeySource("f0", "c1", "air"), KeySource("f0", "c0", "sea"))),
    ]  # fmt: skip
    digests = [fragment_digest(one, item) for item in ((base,), *others)]
    assert len(set(digests)) == len(digests)


def test_the_record_names_who_gave_what_to_whom() -> None:
    made = pack([gathered(pa.array([1, 2])).values()])
    assert made is not None
    (reduction,) = terms(CHAIN)["f1"]
    found = keys.given(CHAIN.fragments[1], [made.sent(0, reduction)])
    assert found == (KeysGiven("sea.data.k", (("f0", "air", 2),)),)
    report = FragmentReport("f1", "sea", "main", keys_given=found)
    to = [{"fragment": "f1", "member": "sea", "column": "sea.data.k"}]
    assert lines([FragmentReport("f0", "air", "main"), report]) == [{"from": {"air": 2}, "sources": ["f0"], "to": to}]


def test_targets_of_the_same_keys_share_a_line_and_a_member_is_named_once() -> None:
    sources = (("f0", "air", 2), ("f1", "land", 3), ("f2", "air", 5))
    reports = [
        FragmentReport("f3", "sea", "main", keys_given=(KeysGiven("sea.data.k", sources),)),
        FragmentReport(
            "f4", "lake", "main", keys_given=(KeysGiven("lake.data.k", sources[:1]), KeysGiven("lake.x.k", sources))
        ),
    ]
    assert lines(reports) == [
        {
            "from": {"air": 7, "land": 3},
            "sources": ["f0", "f1", "f2"],
            "to": [
                {"fragment": "f3", "member": "sea", "column": "sea.data.k"},
                {"fragment": "f4", "member": "lake", "column": "lake.x.k"},
            ],
        },
        {"from": {"air": 2}, "sources": ["f0"], "to": [{"fragment": "f4", "member": "lake", "column": "lake.data.k"}]},
    ]
    assert reports[1].keys_received[0] == ("air", "lake.data.k", 2)
