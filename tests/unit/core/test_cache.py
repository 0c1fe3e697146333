"""The bounded memory: it never grows over its bounds, and one owner's flood pushes out that owner's own entries."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.cache import BoundedCache


def test_the_least_recently_used_goes_first() -> None:
    cache: BoundedCache[int] = BoundedCache(entries_max=2, bytes_max=1_000)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_a_flood_of_one_owner_leaves_the_others_entries() -> None:
    cache: BoundedCache[int] = BoundedCache(entries_max=10, bytes_max=1_000_000)
    cache.put("quiet", 1, owner="quiet")
    for number in range(1_000):
        cache.put(number, number, owner="loud")
    assert cache.get("quiet") == 1
    assert len(cache) == 10


def test_what_is_larger_than_a_quarter_is_not_kept() -> None:
    cache: BoundedCache[int] = BoundedCache(entries_max=10, bytes_max=100)
    cache.put("large", 1, size_bytes=26)
    assert cache.get("large") is None


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from("abc"), st.integers(0, 25)), max_size=200))
def test_the_bounds_hold_whatever_is_put(puts: list[tuple[int, str, int]]) -> None:
    cache: BoundedCache[int] = BoundedCache(entries_max=5, bytes_max=100)
    for key, owner, size in puts:
        cache.put(key, key, owner=owner, size_bytes=size)
        assert len(cache) <= 5
        assert cache.size_bytes <= 100
        assert cache.get(key) == key
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_threads_may_share_it() -> None:
    cache: BoundedCache[int] = BoundedCache(entries_max=50, bytes_max=10_000)
    wrong: list[int] = []

    def work(owner: str) -> None:
        for number in range(2_000):
            cache.put(number % 100, number % 100, owner=owner, size_bytes=10)
            found = cache.get(number % 70)
            if found not in (None, number % 70):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(cache) <= 50
