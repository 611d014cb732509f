//! Rows of a table by token, and their gradient.

use crate::{Stream, View, ViewMut, rows};

/// out`[T, d]`: row t is table`[V, d]`'s row `tokens[t]`. A token past the vocabulary is our mistake and panics.
pub fn forward(stream: &Stream, width: usize, table: View<'_, f32>, tokens: View<'_, u32>, out: ViewMut<'_, f32>) {
    rows::gather(stream, width, table, tokens, out);
}

/// dtable`[V, d]`: row `tokens[t]` += dout`[T, d]`'s row t; equal tokens add up in the order of t.
pub fn backward(stream: &Stream, width: usize, tokens: View<'_, u32>, dout: View<'_, f32>, dtable: ViewMut<'_, f32>) {
    rows::scatter_add(stream, width, dout, tokens, dtable);
}
