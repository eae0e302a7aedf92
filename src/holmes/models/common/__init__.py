"""What decoder families share. A family's own folder says what is its own."""
