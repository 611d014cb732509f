//! Finished work, found by its hash.
