"""What people said of answers, and the files that keep it."""
