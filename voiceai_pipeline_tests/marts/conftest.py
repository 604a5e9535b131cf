"""Invented calls in a database of their own, and a desk that builds their marts."""

import pytest
import sqlalchemy as sa

from voiceai_pipeline_tests.support.mart_calls import Book
from voiceai_pipeline_tests.support.mart_desk import Desk


@pytest.fixture
def book(engine: sa.Engine) -> Book:
    return Book(engine)


@pytest.fixture
def desk(engine: sa.Engine) -> Desk:
    return Desk(engine)
