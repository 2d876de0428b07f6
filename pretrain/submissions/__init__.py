"""Predictions of a model in the formats of public benchmarks, checked against what they published."""
