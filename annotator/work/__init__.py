"""Who does what: queue, leases, progress, agreement, history."""
