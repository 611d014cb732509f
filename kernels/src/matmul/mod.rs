//! Dense products: C (= | +=) A·B, A·Bᵀ or Aᵀ·B.

pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod tiles;

use crate::cpu::gemm::Panels;
use crate::cpu::scratch;
use crate::{Buffer, Profile, Stream, View, ViewMut};

/// Which factor lies transposed in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A `[m, k]` · B `[k, n]`.
    Nn,
    /// A `[m, k]` · Bᵀ with B `[n, k]`: a linear layer's forward pass, weights as Hugging Face stores them.
    Nt,
    /// Aᵀ · B with A `[k, m]`, B `[k, n]`: a weight's gradient.
    Tn,
}

/// What happens to the former content of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Overwrite,
    Accumulate,
}

/// C`[m, n]` (= | +=) op(A)·op(B), factors in the device's precision, sums in f32.
///
/// On the CPU and the emulated device each element is summed over k in one fixed order that does not depend on m, n or its
/// place: a row of C is the same bits whether computed alone or among others. A vendor's library repeats its bits for the
/// same shape, and promises no more.
pub fn matmul(
    stream: &Stream,
    layout: Layout,
    m: usize,
    n: usize,
    k: usize,
    a: View<'_, f32>,
    b: View<'_, f32>,
    write: Write,
    c: ViewMut<'_, f32>,
) {
    assert_eq!(a.len(), m * k, "matmul: A is not {m} × {k}");
    assert_eq!(b.len(), k * n, "matmul: B is not {k} × {n}");
    assert_eq!(c.len(), m * n, "matmul: C is not {m} × {n}");
    if stream.is_accelerated() {
        return cuda::matmul(stream, layout, (m, n, k), a, b, write, c);
    }
    cpu::matmul(stream, layout, (m, n, k), a.host(), b.host(), write, c.host());
}

/// Bytes of an accelerator's workspace that a product (m, n, k) takes.
pub fn workspace_bytes(profile: Profile, layout: Layout, shape: (usize, usize, usize)) -> usize {
    profile.workspace_bytes(|precision, _| cuda::workspace_bytes(precision, layout, shape))
}

/// Floats that threads keep after products of these shapes (m, n, k) and work that held `beside` floats around a product: two pieces
/// each, as large as the largest needed.
pub fn scratch_floats(shapes: &[(usize, usize, usize)], beside: usize, threads: usize) -> usize {
    let (outer, inner): (Vec<usize>, Vec<usize>) =
        shapes.iter().map(|&shape| cpu::scratch_floats(shape, threads)).unzip();
    let largest = |sizes: Vec<usize>| sizes.into_iter().max().unwrap_or(0);
    let inner = largest(inner);
    threads * (scratch::kept(largest(outer).max(beside).max(inner)) + scratch::kept(inner))
}

/// B of products, copied into the order in which they read it: worth its memory (as much as B again) where many products of few rows
/// follow, as in generation on the CPU. On an accelerator it is a plain copy, and worth nothing.
#[derive(Debug)]
pub struct Prepared {
    /// On an accelerator B as it is.
    panels: Buffer<f32>,
    layout: Layout,
    n: usize,
    k: usize,
}

impl Prepared {
    /// Of B as it lies for this layout, [`Layout::Nt`] or [`Layout::Nn`]: `[n, k]` as Hugging Face stores weights, or `[k, n]`.
    pub fn new(stream: &Stream, layout: Layout, n: usize, k: usize, b: View<'_, f32>) -> Prepared {
        let len = if stream.is_accelerated() { n * k } else { Panels::len(k, n) };
        let mut prepared = Prepared { panels: stream.uninit(len), layout, n, k };
        prepared.renew(stream, b);
        prepared
    }

    /// How many numbers B has.
    pub fn numbers(&self) -> usize {
        self.n * self.k
    }

    /// The same of other values, in the same memory.
    pub fn renew(&mut self, stream: &Stream, b: View<'_, f32>) {
        let Prepared { layout, n, k, .. } = *self;
        assert!(layout != Layout::Tn && b.len() == n * k, "matmul: B is not {n} × {k}");
        if stream.is_accelerated() {
            return stream.copy(b, self.panels.view_mut());
        }
        cpu::prepare(stream, layout, (n, k), b.host(), self.panels.view_mut().host());
    }
}

/// Floats of a [`Prepared`] B of n columns and k rows.
pub fn prepared_floats(n: usize, k: usize) -> usize {
    Panels::len(k, n)
}

/// C`[m, n]` (= | +=) A`[m, k]` · B: the bits of [`matmul`] with B's layout.
pub fn matmul_prepared(stream: &Stream, m: usize, a: View<'_, f32>, b: &Prepared, write: Write, c: ViewMut<'_, f32>) {
    let Prepared { layout, n, k, .. } = *b;
    assert_eq!(a.len(), m * k, "matmul: A is not {m} × {k}");
    assert_eq!(c.len(), m * n, "matmul: C is not {m} × {n}");
    if stream.is_accelerated() {
        return cuda::matmul(stream, layout, (m, n, k), a, b.panels.view(), write, c);
    }
    cpu::matmul_prepared(stream, (m, n, k), a.host(), b.panels.view().host(), write, c.host());
}
