"""What operators see: metrics and one log line per request."""
