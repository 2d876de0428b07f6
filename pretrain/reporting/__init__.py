"""The report: what was evaluated, generated and trained, as one HTML page."""
