"""Fetching photographs over the network: politely, within limits, from public addresses only."""
