"""Parts for sparsespec, found through entry points; importing this package does nothing."""
