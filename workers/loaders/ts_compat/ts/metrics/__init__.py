"""Numbers that a handler counts and measures."""
