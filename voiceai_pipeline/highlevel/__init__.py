"""HighLevel's API: the only room that knows its URLs, headers, paging, limits and error texts."""
