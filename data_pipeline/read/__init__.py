"""Reading: files, dumps and data sets go in, raw documents come out, task by task."""
