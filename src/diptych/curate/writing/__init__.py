"""Text generation for a pool: requests, cached answers, and backends."""
