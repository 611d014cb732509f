//! What is read off a decoder's chosen rows: log-probabilities of targets, values, and their way back.

use super::Decoder;
use super::batch::Batch;
use super::workspace::Workspace;
use kernels::Layout::{Nn, Nt, Tn};
use kernels::Write::{Accumulate, Overwrite};
use kernels::logprob::{EntropyGradient, Head};
use kernels::sample::{self, Sampling};
use kernels::{Buffer, View, Write, bias, logprob, matmul, rows};

/// Scores of the vocabulary that [`likeliest`] holds at once.
const SCORES_MAX: usize = 1 << 20;

/// log p of each target under softmax(logits / temperature), and the entropy there. Logits are never stored.
pub fn log_probabilities(decoder: &Decoder, batch: &Batch, temperature: f32, workspace: &mut Workspace) {
    gather(decoder, batch, workspace);
    let (n, d, stream, heads) = (batch.chosen(), decoder.config().hidden_size, &workspace.stream, &mut workspace.heads);
    logprob::forward(
        stream,
        head(decoder, temperature),
        heads.hidden.slice(0..n * d),
        decoder.weight(&decoder.layout().head),
        batch.targets(),
        heads.logp.slice_mut(0..n),
        heads.log_sum.slice_mut(0..n),
        Some(heads.entropy.slice_mut(0..n)),
    );
}

/// The likeliest token of each chosen row, after [`log_probabilities`]; the lowest id among equals. Logits exist for a few rows at a time.
pub fn likeliest(decoder: &Decoder, batch: &Batch, workspace: &mut Workspace) -> Vec<u32> {
    let (n, d, v) = (batch.chosen(), decoder.config().hidden_size, decoder.config().vocab_size);
    let (stream, heads) = (&workspace.stream, &workspace.heads);
    let rows_max = (SCORES_MAX / v).clamp(1, n.max(1));
    let mut scores = stream.uninit(rows_max * v);
    let (seeds, mut tokens, mut logp) = (stream.zeros(rows_max), stream.zeros(n), stream.uninit(rows_max));
    for first in (0..n).step_by(rows_max) {
        let rows = rows_max.min(n - first);
        let hidden = heads.hidden.slice(first * d..(first + rows) * d);
        decoder.logits(stream, rows, hidden, scores.slice_mut(0..rows * v));
        let (scores, seeds) = (scores.slice(0..rows * v), seeds.slice(0..rows));
        let (tokens, logp) = (tokens.slice_mut(first..first + rows), logp.slice_mut(0..rows));
        sample::forward(stream, v, &Sampling::GREEDY, scores, seeds, seeds, tokens, logp);
    }
    stream.download(tokens.view())
}

/// From the gradient of the log-probabilities to that of the last norm's output; the head's own is added to `gradients`.
pub fn log_probabilities_backward(
    decoder: &Decoder,
    batch: &Batch,
    temperature: f32,
    workspace: &mut Workspace,
    gradients: &mut Buffer<f32>,
) {
    log_probabilities_to_hidden(decoder, batch, temperature, None, workspace, gradients);
    hidden_to_stack(decoder, batch, workspace);
}

/// The first half of it, for a loss over several heads; `dentropy` is the gradient of the entropies, where they count.
pub fn log_probabilities_to_hidden(
    decoder: &Decoder,
    batch: &Batch,
    temperature: f32,
    dentropy: Option<View<'_, f32>>,
    workspace: &mut Workspace,
    gradients: &mut Buffer<f32>,
) {
    let (n, d) = (batch.chosen(), decoder.config().hidden_size);
    let Workspace { stream, heads, back, .. } = &mut *workspace;
    let back = back.as_mut().expect("a workspace for training");
    logprob::backward(
        stream,
        head(decoder, temperature),
        heads.hidden.slice(0..n * d),
        decoder.weight(&decoder.layout().head),
        batch.targets(),
        heads.log_sum.slice(0..n),
        heads.gradient.slice(0..n),
        dentropy.map(|dentropy| EntropyGradient { entropy: heads.entropy.slice(0..n), dentropy }),
        back.hidden.slice_mut(0..n * d),
        decoder.gradient(&decoder.layout().head, gradients),
    );
}

/// V of each chosen row.
pub fn values(decoder: &Decoder, batch: &Batch, workspace: &mut Workspace) {
    gather(decoder, batch, workspace);
    let (n, d, stream, heads) = (batch.chosen(), decoder.config().hidden_size, &workspace.stream, &mut workspace.heads);
    let (weight, constant) = decoder.value_head();
    let mut values = heads.values.slice_mut(0..n);
    let hidden = heads.hidden.slice(0..n * d);
    matmul(stream, Nt, n, 1, d, hidden, weight, Overwrite, values.reborrow());
    bias::add(stream, n, 1, constant, values);
}

/// From the gradient of the values to that of the last norm's output; the head's own is added to `gradients`.
pub fn values_backward(decoder: &Decoder, batch: &Batch, workspace: &mut Workspace, gradients: &mut Buffer<f32>) {
    values_to_hidden(decoder, batch, Overwrite, workspace, gradients);
    hidden_to_stack(decoder, batch, workspace);
}

/// The first half of it; `Accumulate` adds to what another head left.
pub fn values_to_hidden(
    decoder: &Decoder,
    batch: &Batch,
    write: Write,
    workspace: &mut Workspace,
    gradients: &mut Buffer<f32>,
) {
    let (n, d) = (batch.chosen(), decoder.config().hidden_size);
    let (weight, constant) = decoder.layout().value.clone().expect("a decoder with a value head");
    let Workspace { stream, heads, back, .. } = &mut *workspace;
    let back = back.as_mut().expect("a workspace for training");
    let gradient = heads.gradient.slice(0..n);
    bias::backward(stream, n, 1, gradient, gradients.slice_mut(constant));
    matmul(stream, Nn, n, d, 1, gradient, decoder.value_head().0, write, back.hidden.slice_mut(0..n * d));
    matmul(stream, Tn, 1, d, n, gradient, heads.hidden.slice(0..n * d), Accumulate, gradients.slice_mut(weight));
}

fn head(decoder: &Decoder, temperature: f32) -> Head {
    Head { vocabulary: decoder.config().vocab_size, width: decoder.config().hidden_size, temperature }
}

fn gather(decoder: &Decoder, batch: &Batch, workspace: &mut Workspace) {
    let (t, n, d) = (batch.len(), batch.chosen(), decoder.config().hidden_size);
    let Workspace { stream, normed, heads, .. } = workspace;
    rows::gather(stream, d, normed.slice(0..t * d), batch.rows(), heads.hidden.slice_mut(0..n * d));
}

/// From the gradient of the rows that heads look at to that of the last norm's output: the second half of a backward pass.
pub fn hidden_to_stack(decoder: &Decoder, batch: &Batch, workspace: &mut Workspace) {
    let (t, n, d) = (batch.len(), batch.chosen(), decoder.config().hidden_size);
    let Workspace { stream, back, .. } = workspace;
    let back = back.as_mut().expect("a workspace for training");
    stream.fill(back.normed.slice_mut(0..t * d), 0.0);
    rows::scatter_add(stream, d, back.hidden.slice(0..n * d), batch.rows(), back.normed.slice_mut(0..t * d));
}

/// What the passes left; `losses.rs` has the losses over it.
impl Workspace {
    /// `[T, d]` what the last forward pass made of the batch, after the last norm.
    pub fn normed(&self, batch: &Batch) -> View<'_, f32> {
        self.normed.slice(0..batch.len() * (self.normed.len() / self.scale.len()))
    }

    /// `[N]` log-probabilities of the last [`log_probabilities`].
    pub fn logp(&self, batch: &Batch) -> View<'_, f32> {
        self.heads.logp.slice(0..batch.chosen())
    }

    pub fn download_logp(&self, batch: &Batch) -> Vec<f32> {
        self.stream.download(self.logp(batch))
    }

    pub fn download_entropy(&self, batch: &Batch) -> Vec<f32> {
        self.stream.download(self.heads.entropy.slice(0..batch.chosen()))
    }

    pub fn download_values(&self, batch: &Batch) -> Vec<f32> {
        self.stream.download(self.heads.values.slice(0..batch.chosen()))
    }

    /// The gradient of a loss that weighs every log-probability alike.
    pub fn fill_logp_gradient(&mut self, batch: &Batch, weight: f32) {
        self.stream.fill(self.heads.gradient.slice_mut(0..batch.chosen()), weight);
    }
}
