from __future__ import annotations

import dataclasses

from ovbench.harness.comparison.settings import differing
from ovbench.results.record import SourceRecord
from tests.results.conftest import record


def _source(role: str, digest: str) -> SourceRecord:
    return SourceRecord(role=role, name="any", digest=digest * 64, count=None)


def test_sources_of_other_contents_are_listed_by_role() -> None:
    one = record(sources=(_source("language model", "a"), _source("training pictures", "c")))
    two = record(sources=(_source("language model", "b"), _source("training pictures", "c")))
    (found,) = differing(one, two)
    assert (found.name, found.first, found.second) == ("language model digest", "a" * 12, "b" * 12)


def test_a_source_that_one_run_alone_has_is_listed() -> None:
    one = record(sources=(_source("trained LLaVA", "a"),))
    (found,) = differing(one, dataclasses.replace(one, sources=()))
    assert (found.name, found.second) == ("trained LLaVA digest", "—")
