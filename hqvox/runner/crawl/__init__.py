"""Crawling: one process that fetches photographs for many shards."""
