"""De-duplication: hashes and signatures of all documents go in, which of them stay comes out."""
