"""`hqvox demo`: a small world with known answers, built, trained and reviewed."""
