"""Where a teacher's signals come from."""
