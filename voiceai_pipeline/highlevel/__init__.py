"""The only room that knows HighLevel: its URLs, headers, dialects, paging, limits and answers."""
