"""Instruments that measure what a test is about."""
