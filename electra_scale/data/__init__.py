"""From a store of tokenized documents to the batches of a global step, as pure functions of keys."""
