"""The log of decisions: its store, its rules, who may write."""
