"""A month in the life of a daily export; `make year` lives a year of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.year import CHECKS, MONTH, Life, live


@pytest.fixture(scope="module")
def month(_metadata: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    with pytest.MonkeyPatch.context() as environment:
        yield from live(MONTH, tmp_path_factory.mktemp("year"), environment)


@pytest.mark.parametrize("check", CHECKS)
def test_a_month(month: Life, check: Callable[[Life], None]) -> None:
    check(month)
