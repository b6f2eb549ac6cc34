"""Public trainers through the checks of tests/conformance: adapters go in, a table of kept promises comes out."""
