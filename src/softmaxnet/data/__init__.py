"""Files and frames become X: a matrix, a sparse matrix or an Arrow table."""
