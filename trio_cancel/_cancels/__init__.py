"""One module for each way to cancel: single, batch, stream, order scope."""
