"""Training the student and learn-to-weight on normal studies."""
