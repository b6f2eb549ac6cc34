"""The build: a configuration goes in, a store comes out, through kills and on any number of workers."""
