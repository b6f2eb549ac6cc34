"""Code for the processor that a run finds itself on."""
