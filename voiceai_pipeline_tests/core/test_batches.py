import pytest

from voiceai_pipeline.core.batches import batches


@pytest.mark.parametrize(
    ("locations_at_most", "expected"),
    [(None, [["a", "b"], ["c"], ["d", "e", "f"]]), (2, [["a", "b"], ["c"], ["d", "e"], ["f"]])],
)
def test_locations_share_a_batch_within_both_limits_and_a_large_one_is_alone(
    locations_at_most: int | None, expected: list[list[str]]
) -> None:
    sizes = {"a": 4, "b": 6, "c": 25, "d": 1, "e": 0, "f": 9}
    assert list(batches(sizes, 10, locations_at_most)) == expected


def test_no_locations_are_no_batch() -> None:
    assert list(batches({}, 10)) == []
