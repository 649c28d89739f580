"""What every process of the server does the same way: read its options, write its log lines.

Knows nothing of models, of HTTP or of the step protocol, and imports nothing heavy.
"""
