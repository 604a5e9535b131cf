"""Locations in batches of a limited number of calls, in the order given."""

from collections.abc import Iterator, Mapping


def batches(
    sizes: Mapping[str, int], calls_at_most: int, locations_at_most: int | None = None
) -> Iterator[list[str]]:
    """Locations whose calls fit into one batch together. One with too many calls is alone.

    Args:
        sizes: the number of calls by location id.
        locations_at_most: the most locations of a batch; None: any number.
    """
    batch: list[str] = []
    calls = 0
    for location_id, size in sizes.items():
        if batch and (calls + size > calls_at_most or len(batch) == locations_at_most):
            yield batch
            batch, calls = [], 0
        batch.append(location_id)
        calls += size
    if batch:
        yield batch
