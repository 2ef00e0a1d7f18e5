"""What passes between the parts: frozen values, the errors, the observer. Knows nothing above it."""
