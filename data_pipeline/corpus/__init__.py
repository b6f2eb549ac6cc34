"""Text for the demo: nothing goes in, a folder of real English comes out."""
