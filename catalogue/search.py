"""Search: the database's index finds candidates, and what is shown, counted and ranked is decided here.

The index (SQLite FTS5, PostgreSQL GIN) holds the tokens of ``catalogue.words``. It knows nothing of who may know what:
its candidates are cut down to the datasets that the caller may know about before anything is counted, so neither totals
nor facets betray a hidden one. The score is computed here and not by the engine, so that both give the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from catalogue.pages import Token, page_size_of
from catalogue.words import Run, fold, query_runs, query_tokens, runs, tokens
from tidegate.core.dataset import Dataset, DatasetClass
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName

TOKENS_MAX: Final = 20_000  # of one dataset in the index; a thousand columns with descriptions stay below
FACET_VALUES_MAX: Final = 50
FILTER_CHARS_MAX: Final = 200

# How much a hit in a field says that the dataset is about the word; a whole word counts WHOLE, a beginning PART.
_WEIGHTS: Final = {"name": 8, "title": 8, "tags": 4, "columns": 3, "elements": 3, "description": 2, "details": 1}
_WHOLE, _PART = 10, 6


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What is looked for; every field narrows, an empty one does not.

    Args:
        words: all of them, anywhere in the dataset's texts; the beginning of a word is enough.
        column: name of a column, without case.
        element: a data element, or a group of them (``person`` finds ``person.id``).
        dataset_class: ``open``, ``conditional``, ``closed``.
        owner: member name.
    """

    words: str = ""
    column: str = ""
    element: str = ""
    dataset_class: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """One page of hits, best first; total and facets count all hits that the caller may know about."""

    datasets: tuple[Dataset, ...]
    total: int
    facets: Mapping[str, Mapping[str, int]]
    next_page_token: str


def index(connection: Connection, dataset_id: int, dataset: Dataset) -> None:
    """Put the dataset's words into the index, in the transaction that changes the dataset."""
    connection.execute(text("DELETE FROM search_index WHERE rowid = :id"), {"id": dataset_id})
    if dataset.withdrawn:
        return
    fields = _fields(dataset).values()
    words = list(dict.fromkeys(token for field in fields for part in field for token in tokens(part)))[:TOKENS_MAX]
    if connection.dialect.name == "sqlite":
        statement = text("INSERT INTO search_index (rowid, tokens) VALUES (:id, :tokens)")
        connection.execute(statement, {"id": dataset_id, "tokens": " ".join(words)})
    else:
        # array_to_tsvector keeps each token as it is; to_tsvector would cut and stem it.
        statement = text(
            "INSERT INTO search_index (rowid, tokens) VALUES (:id, array_to_tsvector(CAST(:tokens AS text[])))"
        )
        connection.execute(statement, {"id": dataset_id, "tokens": words})


def candidates(connection: Connection, words: Iterable[Run]) -> set[int]:
    """Give the ids of the datasets whose index holds every token of every run."""
    quoted = [
        _quoted(connection.dialect.name, token, prefix=not run.cjk) for run in words for token in query_tokens(run)
    ]
    if connection.dialect.name == "sqlite":
        statement = text("SELECT rowid FROM search_index WHERE search_index MATCH :query")
        return set(connection.execute(statement, {"query": " ".join(quoted)}).scalars())
    statement = text("SELECT rowid FROM search_index WHERE tokens @@ CAST(:query AS tsquery)")
    return set(connection.execute(statement, {"query": " & ".join(quoted)}).scalars())


def _quoted(dialect: str, token: str, *, prefix: bool) -> str:
    # A token holds letters, marks and digits only (catalogue.words), so neither quote nor backslash can occur in it.
    if dialect == "sqlite":
        return f'"{token}"*' if prefix else f'"{token}"'
    return f"'{token}':*" if prefix else f"'{token}'"


def parse_query(query: SearchQuery) -> tuple[Run, ...]:
    """Check a query and give the runs of its words."""
    if query.dataset_class and query.dataset_class not in {item.value for item in DatasetClass}:
        raise error_for(Code.CAT_INVALID, "search class: expected open, conditional or closed")
    if max(map(len, (query.column, query.element, query.owner))) > FILTER_CHARS_MAX:
        raise error_for(Code.CAT_INVALID, f"search: a filter is longer than {FILTER_CHARS_MAX} characters")
    return query_runs(query.words)


class Texts:
    """The runs of every dataset's fields, cut once for each version: scoring a large catalogue would cut them anew."""

    def __init__(self) -> None:
        self._kept: dict[DatasetName, tuple[int, dict[str, tuple[Run, ...]]]] = {}  # one entry a dataset, any thread

    def of(self, dataset: Dataset) -> Mapping[str, tuple[Run, ...]]:
        """Give the runs, by field."""
        kept = self._kept.get(dataset.name)
        if kept is None or kept[0] != dataset.version:
            fields = _fields(dataset).items()
            # Equal runs of one field say nothing more: a thousand columns often share their words.
            cut = {name: tuple(dict.fromkeys(run for part in parts for run in runs(part))) for name, parts in fields}
            kept = (dataset.version, cut)
            self._kept[dataset.name] = kept
        return kept[1]


def answer(
    query: SearchQuery,
    words: Collection[Run],
    known: Iterable[Dataset],
    texts: Texts,
    *,
    page_size: int,
    page_token: str,
) -> Found:
    """Filter, score, count and page.

    Args:
        words: of ``parse_query``.
        known: the candidates that the caller may know about.
    """
    size = page_size_of(page_size)
    scored = []
    for dataset in known:
        if _passes(query, dataset):
            points = _score(words, texts.of(dataset)) if words else 0
            if points is not None:
                scored.append((-points, dataset.name, dataset))
    scored.sort(key=lambda item: (item[0], str(item[1])))
    rest = scored
    if page_token:
        token = Token.read(page_token, "search")
        place = (token.number(0), token.text(1))
        rest = [item for item in scored if (item[0], str(item[1])) > place]
    page = rest[:size]
    last = Token("search", (page[-1][0], str(page[-1][1]))).write() if len(rest) > size else ""
    hits = [item[2] for item in scored]
    return Found(tuple(item[2] for item in page), len(scored), _facets(hits), last)


def _passes(query: SearchQuery, dataset: Dataset) -> bool:
    if query.dataset_class and dataset.dataset_class.value != query.dataset_class:
        return False
    if query.owner and dataset.owner != query.owner:
        return False
    if query.column and fold(query.column) not in {fold(column.name) for column in dataset.columns}:
        return False
    group = f"{query.element}."
    return not query.element or any(
        column.element == query.element or column.element.startswith(group) for column in dataset.columns
    )


def _score(words: Collection[Run], fields: Mapping[str, tuple[Run, ...]]) -> int | None:
    """Give the points, or None when a word does not occur (bigrams may be there without the run)."""
    total = 0
    for word in words:
        best = max(_WEIGHTS[name] * _match(word, found) for name, found in fields.items())
        if best == 0:
            return None
        total += best
    return total


def _match(word: Run, found: Iterable[Run]) -> int:
    best = 0
    for run in found:
        if run == word:
            return _WHOLE
        if run.cjk == word.cjk and (word.text in run.text if word.cjk else run.text.startswith(word.text)):
            best = _PART
    return best


def _fields(dataset: Dataset) -> dict[str, list[str]]:
    return {
        "name": [str(dataset.name)],
        "title": [dataset.title],
        "tags": list(dataset.tags),
        "columns": [column.name for column in dataset.columns],
        "elements": [column.element for column in dataset.columns],
        "description": [dataset.description],
        "details": [
            *(column.description for column in dataset.columns),
            *(str(part) for part in dataset.parts),
            dataset.owner,
            dataset.legal_basis,
            dataset.citation,
            dataset.licence,
        ],
    }


def _facets(hits: Iterable[Dataset]) -> dict[str, dict[str, int]]:
    counters: dict[str, Counter[str]] = {name: Counter() for name in ("class", "element", "owner", "tag")}
    for dataset in hits:
        counters["class"][dataset.dataset_class.value] += 1
        counters["owner"][dataset.owner] += 1
        counters["element"].update({column.element for column in dataset.columns if column.element})
        counters["tag"].update(set(dataset.tags))
    return {
        name: dict(sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:FACET_VALUES_MAX])
        for name, counter in counters.items()
    }
