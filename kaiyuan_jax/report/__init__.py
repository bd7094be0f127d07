"""The page a user reads after some runs: load -> compare -> figures -> page, put together in build."""
