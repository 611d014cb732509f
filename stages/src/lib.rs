//! What one node can do: rows in, rows out.
