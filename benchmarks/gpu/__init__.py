"""Whether the code paths for CUDA are right, and how fast they are: one run of ten minutes on one device."""
