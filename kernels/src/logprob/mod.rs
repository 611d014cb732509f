//! Log-probabilities of given tokens, fused with the head: logits `[N, V]` never exist as a whole.

mod cpu;
pub(crate) mod cuda;
pub(crate) mod hopper;

use crate::{Profile, Stream, View, ViewMut};

/// Sizes of a head, and the temperature that divides its logits.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// V.
    pub vocabulary: usize,
    /// d.
    pub width: usize,
    /// Above 0.
    pub temperature: f32,
}

impl Head {
    fn check(&self, rows: usize, hidden: usize, weight: usize) {
        assert!(self.temperature > 0.0, "logprob: temperature `{}` is not above 0", self.temperature);
        assert_eq!(hidden, rows * self.width, "logprob: hidden is not {rows} × {}", self.width);
        assert_eq!(weight, self.vocabulary * self.width, "logprob: weight is not {} × {}", self.vocabulary, self.width);
    }
}

/// Bytes of an accelerator's workspace that [`forward`] of so many rows takes, or [`backward`].
pub fn workspace_bytes(profile: Profile, rows: usize, head: Head, is_backward: bool) -> usize {
    profile.workspace_bytes(|precision, _| cuda::workspace_bytes(precision, rows, head, is_backward))
}

/// logp`[N]` of targets`[N]`, lse`[N]` (log Σ exp of logits / temperature) and, where wanted, entropy`[N]`, from
/// hidden`[N, d]` and weight`[V, d]`. A target past the vocabulary is our mistake and panics.
pub fn forward(
    stream: &Stream,
    head: Head,
    hidden: View<'_, f32>,
    weight: View<'_, f32>,
    targets: View<'_, u32>,
    logp: ViewMut<'_, f32>,
    lse: ViewMut<'_, f32>,
    entropy: Option<ViewMut<'_, f32>>,
) {
    let rows = targets.len();
    head.check(rows, hidden.len(), weight.len());
    assert_eq!((logp.len(), lse.len()), (rows, rows), "logprob: outputs are not {rows}");
    assert!(entropy.as_ref().is_none_or(|entropy| entropy.len() == rows), "logprob: entropy is not {rows}");
    if stream.is_accelerated() {
        let outputs = cuda::Outputs { logp, lse, entropy };
        return cuda::forward(stream, head, hidden, weight, targets, outputs);
    }
    let outputs = cpu::Outputs { logp: logp.host(), lse: lse.host(), entropy: entropy.map(|view| view.host()) };
    cpu::forward(stream, head, hidden.host(), weight.host(), targets.host(), outputs);
}

/// The entropy that forward gave and the loss's gradient to it, each `[N]`.
#[derive(Clone, Copy, Debug)]
pub struct EntropyGradient<'a> {
    pub entropy: View<'a, f32>,
    pub dentropy: View<'a, f32>,
}

/// dhidden`[N, d]` and, where wanted, dweight`[V, d]` += from dlogp`[N]` (and the entropy's gradient), given what forward saw and
/// wrote.
///
/// With p = softmax(z), z = logits / temperature: dz = dlogp·(onehot − p) − dentropy·p·(log p + entropy).
pub fn backward(
    stream: &Stream,
    head: Head,
    hidden: View<'_, f32>,
    weight: View<'_, f32>,
    targets: View<'_, u32>,
    lse: View<'_, f32>,
    dlogp: View<'_, f32>,
    entropy: Option<EntropyGradient<'_>>,
    dhidden: ViewMut<'_, f32>,
    dweight: Option<ViewMut<'_, f32>>,
) {
    let rows = targets.len();
    head.check(rows, hidden.len(), weight.len());
    assert_eq!((lse.len(), dlogp.len()), (rows, rows), "logprob: saved values are not {rows}");
    let dweight_fits = dweight.as_ref().is_none_or(|dweight| dweight.len() == weight.len());
    assert!(dhidden.len() == hidden.len() && dweight_fits, "logprob: gradients do not fit");
    assert!(
        entropy.is_none_or(|entropy| entropy.entropy.len() == rows && entropy.dentropy.len() == rows),
        "logprob: entropy is not {rows}"
    );
    if stream.is_accelerated() {
        let saved = cuda::Saved { targets, lse, dlogp, entropy };
        return cuda::backward(stream, head, hidden, weight, saved, dhidden, dweight);
    }
    let saved = cpu::Saved { targets: targets.host(), lse: lse.host(), dlogp: dlogp.host(), entropy };
    cpu::backward(stream, head, hidden.host(), weight.host(), saved, dhidden.host(), dweight.map(ViewMut::host));
}
